"""A character-level GPT on tinyshakespeare: dense beside factored at two ranks, then text from the folded ONNX file.

    python examples/tiny_gpt.py --data FOLDER_OR_FILE

Every model sees the same batches and gets the same care: AdamW, warm-up and cosine, at the learning rate that does
best in a short pilot among the same few.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import kronfx as kx
from kronfx.svg import line_chart

ROOT = Path(__file__).resolve().parents[1]
PLACES = (ROOT / "data" / "tinyshakespeare", ROOT.parent / "shared" / "data" / "tinyshakespeare")
RATES = (1e-3, 3e-3, 1e-2)
WARM_UP, PILOT, EVALUATIONS, DECAY = 0.05, 0.1, 20, 0.01  # shares of the steps; how often to evaluate; weight decay


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each normalized before and added after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``x [N, T, width] -> [N, T, width]``."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Characters ``[N, T]`` to logits ``[N, T, characters]`` of the next ones; ``T`` is the context."""

    def __init__(self, characters: int, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(characters, width), nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens [N, T]``."""
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places)))


@dataclass
class Run:
    """A model and what its training came to: validation losses against seconds of training."""

    name: str
    model: nn.Module
    rate: float = 0.0
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Two texts as character numbers, cut into windows."""

    training: Tensor
    validation: Tensor
    alphabet: str
    context: int

    def batch(self, text: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``size`` random windows, and the same one character on."""
        starts = torch.randint(len(text) - self.context - 1, (size, 1), generator=generator)
        windows = text[starts + torch.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """On 256 windows of the validation text, always the same."""
        inputs, wanted = self.batch(self.validation, 256, torch.Generator().manual_seed(1))
        pairs = zip(inputs.split(32), wanted.split(32))
        return sum(float(loss_of(model, x, y)) * len(x) for x, y in pairs) / len(inputs)


def loss_of(model: nn.Module, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy in nats a character."""
    return F.cross_entropy(model(inputs).flatten(0, 1), wanted.flatten())


def load(path: Path | None, context: int) -> Corpus:
    """The first nine tenths for training, the last for validation."""
    path = path or next((place for place in PLACES if place.is_dir()), PLACES[0])
    path = path / "input.txt" if path.is_dir() else path
    if not path.is_file():
        raise SystemExit(f"{path} is not there; name the text, or its folder, with --data.")
    text = path.read_text()
    alphabet = "".join(sorted(set(text)))
    codes = torch.from_numpy(np.searchsorted(np.array(list(alphabet)), np.array(list(text))))
    return Corpus(*codes.split([len(codes) * 9 // 10, len(codes) - len(codes) * 9 // 10]), alphabet, context)


def train(run: Run, corpus: Corpus, steps: int, batch: int, progress: Progress) -> None:
    """AdamW; the rate rises linearly, then falls along a cosine. Evaluations are not on the clock."""
    optimizer = torch.optim.AdamW(run.model.parameters(), lr=run.rate, weight_decay=DECAY)
    warm = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warm, (1 + math.cos(math.pi * t / steps)) / 2)
    )
    generator, seconds, curve = torch.Generator().manual_seed(0), 0.0, [(0.0, corpus.loss(run.model))]
    bar = progress.add_task(f"{run.name}, rate {run.rate:g}", total=steps)
    for step in range(1, steps + 1):
        start = time.perf_counter()
        loss = loss_of(run.model, *corpus.batch(corpus.training, batch, generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        seconds += time.perf_counter() - start
        if step % max(1, steps // EVALUATIONS) == 0 or step == steps:
            curve.append((seconds, corpus.loss(run.model)))
        progress.advance(bar)
    progress.remove_task(bar)
    run.curve = tuple(curve)


def best_rate(run: Run, corpus: Corpus, steps: int, batch: int, progress: Progress) -> float:
    """The rate whose pilot ends with the lowest validation loss."""
    pilots = [Run(f"{run.name}, pilot", copy.deepcopy(run.model), rate) for rate in RATES]
    for pilot in pilots:
        train(pilot, corpus, max(1, int(PILOT * steps)), batch, progress)
    return min(pilots, key=lambda pilot: pilot.curve[-1][1]).rate


def generate(path: Path, corpus: Corpus, length: int) -> str:
    """Sample text from the ONNX file, in stock onnxruntime; what lies behind a position cannot reach it."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name, random = session.get_inputs()[0].name, np.random.default_rng(0)
    codes = [corpus.alphabet.index("\n")]
    for _ in range(length):
        window = codes[-corpus.context :]
        padded = np.array([window + [0] * (corpus.context - len(window))])
        logits = session.run(None, {name: padded})[0][0, len(window) - 1] / 0.8  # the temperature
        shares = np.exp(logits.astype(np.float64) - logits.max())
        codes.append(int(random.choice(len(shares), p=shares / shares.sum())))
    return "".join(corpus.alphabet[code] for code in codes)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the text, or the folder of its input.txt")
    parser.add_argument("--out", type=Path, default=Path("results") / "tiny_gpt", help="folder of what is written")
    parser.add_argument("--ranks", type=int, nargs=2, default=(4, 16))
    for name, value in {"steps": 600, "batch": 16, "context": 128, "width": 128, "layers": 4, "heads": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=300, help="characters of text to generate")
    return parser.parse_args()


def main() -> None:
    """Train and export the three, draw their losses, fold the last one and let it speak."""
    given = arguments()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    given.out.mkdir(parents=True, exist_ok=True)
    corpus = load(given.data, given.context)
    dense = GPT(len(corpus.alphabet), given.width, given.layers, given.heads, given.context)
    example = corpus.batch(corpus.validation, 2, torch.Generator())[0]
    rows = given.batch * given.context
    runs = [Run("dense", dense)]
    runs += [Run(f"rank {rank}", kx.factorize(dense, rank=rank, include="blocks.*", rows=rows)) for rank in given.ranks]

    table = Table("model", "parameters", "rate", "validation loss", "seconds", "ONNX bytes", title="tiny GPT")
    with Progress(console=Console(stderr=True)) as progress:
        for run in runs:
            run.rate = best_rate(run, corpus, given.steps, given.batch, progress)
            train(run, corpus, given.steps, given.batch, progress)
            path = given.out / f"{run.name.replace(' ', '_')}.onnx"
            report = kx.export_onnx(run.model.eval(), path, example, optimize_for="size")
            count, (seconds, loss) = sum(p.numel() for p in run.model.parameters()), run.curve[-1]
            table.add_row(run.name, f"{count:,}", f"{run.rate:g}", f"{loss:.3f}", f"{seconds:.0f}", f"{report.bytes:,}")
    Console().print(table)
    series = {run.name: run.curve for run in runs}
    line_chart(given.out / "loss.svg", series, "tinyshakespeare", "seconds of training", "validation loss (nats)")
    kx.export_onnx(kx.fold(runs[-1].model), given.out / "folded.onnx", example)
    print(generate(given.out / "folded.onnx", corpus, given.length))


if __name__ == "__main__":
    main()
