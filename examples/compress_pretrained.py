"""A trained model made smaller: blocks pruned by what they do, recovered by a teacher, written as ONNX.

    python examples/compress_pretrained.py --data FOLDER_OR_FILE --minutes 5     a character GPT, trained here first
    python examples/compress_pretrained.py --model minilm                        all-MiniLM-L6-v2, where its package is
    python examples/compress_pretrained.py --model FOLDER                        any encoder that transformers opens

What calibrates and what teaches comes from other texts than what judges: the GPT's validation text, docstrings of other
packages. Printed: the quality right after pruning and after recovery, bytes, and milliseconds in stock onnxruntime for
1 and 8 rows of 128 tokens, beside 8-bit files.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
import sentences
import torch
import torch.nn.functional as F
from char_gpt import GPT, Corpus, load, loss_of
from onnxruntime.quantization import quantize_dynamic
from rich.console import Console
from rich.table import Table
from sentences import Batch
from torch import Tensor, nn

import kronfx as kx

LAYERS, HEAD, BATCH, RATE = 4, 64, 16, 1e-3
TARGETS, ROWS = (0.5, 0.75, 0.9), (1, 8)


@dataclass(frozen=True)
class Task:
    """A trained model, which of its maps are pruned, what calibrates (by a seed), teaches and judges it."""

    title: str
    model: nn.Module
    include: str
    calibration: Callable[[int], Sequence[Batch]]
    lessons: Sequence[Any]
    teaching: dict[str, Any]
    judged: str
    quality: Callable[[nn.Module], float]


class File(nn.Module):
    """A file that answers as the model it was made of; what is shorter than its context is padded by zeros."""

    def __init__(self, path: Path, model: nn.Module, context: int) -> None:
        super().__init__()
        self.session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.tokenizer, self.context = getattr(model, "tokenizer", None), context

    def forward(self, *given: Tensor, **named: Tensor) -> Tensor:
        """What the model is called with."""
        named |= zip((each.name for each in self.session.get_inputs()), given)
        feed = {name: F.pad(value, (0, self.context - value.shape[1])).numpy() for name, value in named.items()}
        return torch.from_numpy(self.session.run(None, feed)[0])


@dataclass(frozen=True)
class Line:
    """One file: what it is, the quality of its model right after pruning, where it lies."""

    name: str
    pruned: float | None
    path: Path

    def cells(self, task: Task, context: int) -> list[str]:
        """The row of the table; what it is worth in the end is what the file itself answers."""
        qualities = [self.pruned, task.quality(File(self.path, task.model, context))]
        times = [f"{milliseconds(self.path, rows, context):.2f}" for rows in ROWS]
        shown = ["" if value is None else f"{value:.3f}" for value in qualities]
        return [self.name, *shown, f"{self.path.stat().st_size:,}", *times]


def gpt(given: argparse.Namespace) -> Task:
    """The character GPT, from its file or after so many minutes of training."""
    corpus = load(given.data, given.context)

    def windows(seed: int, count: int = 8) -> list[Batch]:
        generator = torch.Generator().manual_seed(seed)
        return [{"tokens": corpus.batch(corpus.training, BATCH, generator)[0]} for _ in range(count)]

    title, lessons = f"character GPT of width {given.width}", windows(0, given.steps)
    return Task(title, trained(corpus, given), "blocks.*", windows, lessons, {}, "loss", corpus.loss)


def encoder(folder: Path, title: str, given: argparse.Namespace) -> Task:
    """A sentence encoder by its folder: what it is judged by is not what it learns from."""
    model = sentences.Encoder(folder)
    model.bert.embeddings.requires_grad_(False)  # a word that no lesson has would stay behind the others
    judges = random.Random(0).sample(sentences.docstrings(sentences.JUDGED), 500)
    learned = sentences.docstrings(sentences.LEARNED)

    def calibration(seed: int) -> list[Batch]:
        return sentences.batches(model, random.Random(seed).sample(learned, 128), BATCH)

    lessons = sentences.lessons(model, learned, given.steps)
    teaching, quality = {"loss": sentences.taught_by(model)}, partial(sentences.retrieval, pairs=judges)
    return Task(title, model, "bert.encoder.*", calibration, lessons, teaching, "docstrings found", quality)


def trained(corpus: Corpus, given: argparse.Namespace) -> nn.Module:
    """The dense model, from its file or after so many minutes of training."""
    torch.manual_seed(0)
    model = GPT(len(corpus.alphabet), given.width, LAYERS, max(1, given.width // HEAD), given.context)
    kept = given.out / f"dense_{given.width}_{given.context}.pt"
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


def inputs(names: Sequence[str], rows: int, context: int) -> Batch:
    """So many rows of numbers that every vocabulary has; a mask is all ones."""
    numbers = torch.randint(1, 60, (rows, context), generator=torch.Generator().manual_seed(2))
    return {name: torch.ones_like(numbers) if "mask" in name else numbers for name in names}


def milliseconds(path: Path, rows: int, context: int) -> float:
    """The median of a run in stock onnxruntime."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = {name: value.numpy() for name, value in inputs(names, rows, context).items()}
    times = []
    for _ in range(12):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def files(model: nn.Module, name: str, example: Batch, out: Path) -> tuple[Path, Path]:
    """The model by torch's own exporter, and that in 8 bits: sources for ``kx.sparsify_onnx``."""
    plain, small = out / f"{name}.onnx", out / f"{name}_int8.onnx"
    dynamic = {key: {0: torch.export.Dim("rows")} for key in example}
    torch.onnx.export(
        model.eval(), (), plain, kwargs=example, dynamic_shapes=dynamic, external_data=False, verbose=False
    )
    quantize_dynamic(plain, small)
    return plain, small


def lines(task: Task, given: argparse.Namespace) -> list[Line]:
    """Dense, then every share of zero blocks; in 32 and in 8 bits."""
    calibration = task.calibration(1)
    example = inputs(list(calibration[0]), 2, given.context)
    plain, small = files(task.model, "dense", example, given.out)
    found = [Line("dense", None, plain), Line("dense, int8", None, small)]
    pruned = kx.prune(task.model, calibration, target=list(TARGETS), block=tuple(given.block), include=task.include)
    for target, sparse in zip(TARGETS, pruned):
        won = kx.recover(sparse, task.model, task.lessons, steps=given.steps, **task.teaching)
        worth = task.quality(sparse)
        sources = files(won, f"pruned_{100 * target:.0f}", example, given.out)
        for bits, source in zip(("", ", int8"), sources):
            path = source.with_stem(f"{source.stem}_sparse")
            kx.sparsify_onnx(source, path, block=tuple(given.block), rows=[given.context * rows for rows in ROWS])
            found.append(Line(f"{target:.0%} zero{bits}", worth, path))
        if given.report is not None and target == 0.75:
            kx.compare(task.model, won).to_html(given.report)
    return found


def chosen(given: argparse.Namespace) -> Task:
    """By name, or by the folder of an encoder."""
    if given.model == "gpt":
        return gpt(given)
    if given.model == "minilm":
        return encoder(sentences.minilm(), "all-MiniLM-L6-v2", given)
    folder = Path(given.model)
    return encoder(folder, folder.resolve().name, given)


def options(about: str) -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--model", default="gpt", help="gpt, minilm, or the folder of an encoder")
    parser.add_argument("--data", type=Path, help="a text, or the folder of its input.txt (default: tinyshakespeare)")
    parser.add_argument(
        "--out", type=Path, default=Path("results") / "compress_pretrained", help="folder of what is written"
    )
    parser.add_argument("--minutes", type=float, default=5, help="of training the dense GPT, where none was kept")
    numbers = {"width": 256, "context": 128, "steps": 100}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def main() -> None:
    """Train or open, prune, recover, write, compare."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--block", type=int, nargs=2, default=(16, 16), help="output rows first")
    parser.add_argument("--report", type=Path, help="a page about what 75%% zero did to every layer")
    given = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer would rather have its own preprocessing
    given.out.mkdir(parents=True, exist_ok=True)
    task = chosen(given)
    task.model.eval()
    head = (
        "model",
        f"{task.judged}, pruned",
        "recovered, by the file",
        "bytes",
        *(f"ms, {rows} x {given.context}" for rows in ROWS),
    )
    table = Table(*head, title=f"{task.title}, blocks of {given.block[0]}x{given.block[1]}")
    for line in lines(task, given):
        table.add_row(*line.cells(task, given.context))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
