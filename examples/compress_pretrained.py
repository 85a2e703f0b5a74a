"""A trained character GPT made smaller: blocks pruned by what they do, recovered by distillation, written as ONNX.

    python examples/compress_pretrained.py --data FOLDER_OR_FILE --minutes 5

It trains a dense model first, or takes the one that it kept before. What calibrates and what recovers is drawn from the
training text; what it is judged by is the validation text. Printed: the loss right after pruning and after recovery,
bytes, and milliseconds in stock onnxruntime for 1 and 8 windows of 128 characters, beside 8-bit files.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort
import torch
from char_gpt import GPT, Corpus, load, loss_of
from onnxruntime.quantization import quantize_dynamic
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import kronfx as kx

LAYERS, HEAD, CONTEXT, BATCH, RATE = 4, 64, 128, 16, 1e-3
TARGETS, ROWS = (0.5, 0.75, 0.9), (1, 8)


@dataclass(frozen=True)
class Line:
    """One file: what it is, its loss right after pruning and after recovery, its bytes, milliseconds a run."""

    name: str
    pruned: float | None
    loss: float | None
    path: Path

    def cells(self, corpus: Corpus) -> list[str]:
        """The row of the table."""
        losses = ["" if loss is None else f"{loss:.3f}" for loss in (self.pruned, self.loss)]
        times = [f"{milliseconds(self.path, corpus, rows):.2f}" for rows in ROWS]
        return [self.name, *losses, f"{self.path.stat().st_size:,}", *times]


def trained(corpus: Corpus, given: argparse.Namespace) -> nn.Module:
    """The dense model, from its file or after so many minutes of training."""
    torch.manual_seed(0)
    model = GPT(len(corpus.alphabet), given.width, LAYERS, max(1, given.width // HEAD), CONTEXT)
    kept = given.out / f"dense_{given.width}.pt"
    if kept.exists():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model
    optimizer, generator = torch.optim.AdamW(model.parameters(), lr=RATE), torch.Generator().manual_seed(0)
    start = time.perf_counter()
    for step in itertools.count(1):
        spent = (time.perf_counter() - start) / (60 * given.minutes)
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(step / 50, (1 + math.cos(math.pi * spent)) / 2)
        loss = loss_of(model, *corpus.batch(corpus.training, BATCH, generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), kept)
    return model


def windows(corpus: Corpus, count: int, seed: int) -> list[Tensor]:
    """Batches of the training text, no labels with them."""
    generator = torch.Generator().manual_seed(seed)
    return [corpus.batch(corpus.training, BATCH, generator)[0] for _ in range(count)]


def milliseconds(path: Path, corpus: Corpus, rows: int) -> float:
    """The median of a run in stock onnxruntime."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = corpus.batch(corpus.validation, rows, torch.Generator().manual_seed(2))[0].numpy()
    times = []
    for _ in range(12):
        start = time.perf_counter()
        session.run(None, {session.get_inputs()[0].name: x})
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def files(model: nn.Module, name: str, corpus: Corpus, out: Path) -> tuple[Path, Path]:
    """The model by torch's own exporter, and that in 8 bits: sources for ``kx.sparsify_onnx``."""
    plain, small = out / f"{name}.onnx", out / f"{name}_int8.onnx"
    example = corpus.batch(corpus.validation, 2, torch.Generator())[0]
    dynamic = {"tokens": {0: torch.export.Dim("rows")}}
    torch.onnx.export(model.eval(), (example,), plain, dynamic_shapes=dynamic, external_data=False, verbose=False)
    quantize_dynamic(plain, small)
    return plain, small


def lines(model: nn.Module, corpus: Corpus, given: argparse.Namespace) -> list[Line]:
    """Dense, then every share of zero blocks; in 32 and in 8 bits."""
    plain, small = files(model, "dense", corpus, given.out)
    found = [Line("dense", None, corpus.loss(model), plain), Line("dense, int8", None, None, small)]
    calibration, recovery = windows(corpus, given.calibration, seed=10), windows(corpus, given.steps, seed=11)
    pruned = kx.prune(model, calibration, target=list(TARGETS), block=tuple(given.block), include="blocks.*")
    for target, sparse in zip(TARGETS, pruned):
        won = kx.recover(sparse, model, recovery, steps=given.steps)
        name, losses = f"{target:.0%} zero", (corpus.loss(sparse), corpus.loss(won))
        sources = files(won, f"pruned_{target:.0%}".replace("%", ""), corpus, given.out)
        for bits, source, each in zip(("", ", int8"), sources, (losses, (None, None))):
            path = source.with_stem(f"{source.stem}_sparse")
            kx.sparsify_onnx(source, path, block=tuple(given.block), rows=[CONTEXT * rows for rows in ROWS])
            found.append(Line(name + bits, *each, path))
        kx.inspect(won).to_html(given.out / f"pruned_{target:.0%}.html".replace("%", ""))
    return found


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text, or the folder of its input.txt (default: tinyshakespeare)")
    parser.add_argument(
        "--out", type=Path, default=Path("results") / "compress_pretrained", help="folder of what is written"
    )
    parser.add_argument("--minutes", type=float, default=5, help="of training the dense model, where none was kept")
    parser.add_argument("--block", type=int, nargs=2, default=(16, 16), help="output rows first")
    numbers = {"width": 256, "calibration": 8, "steps": 100}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    """Train, prune, recover, write, compare."""
    given = arguments()
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer would rather have its own preprocessing
    given.out.mkdir(parents=True, exist_ok=True)
    corpus = load(given.data, CONTEXT)
    model = trained(corpus, given).eval()
    head = ("model", "loss, pruned", "recovered", "bytes", *(f"ms, {rows} x {CONTEXT}" for rows in ROWS))
    table = Table(*head, title=f"character GPT of width {given.width}, blocks of {given.block[0]}x{given.block[1]}")
    for line in lines(model, corpus, given):
        table.add_row(*line.cells(corpus))
    Console(width=120).print(table)
    print(f"pages with every layer: {given.out}/pruned_*.html")


if __name__ == "__main__":
    main()
