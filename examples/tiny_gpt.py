"""A character-level GPT on tinyshakespeare: dense and factored, by AdamW and by Muon, against the clock.

    python examples/tiny_gpt.py --data FOLDER_OR_FILE --width 384 --minutes 40
    python examples/tiny_gpt.py --data FOLDER_OR_FILE --width 384 --seconds 100

Every contender gets the same care: branches that start at zero, warm-up and cosine, and the rate that does best in a
short search among the same few. Runs alternate between the contenders; evaluations are not on the clock. With
``--seconds`` each trains for as many steps as it takes in that time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from char_gpt import GPT, Corpus, generate, load, loss_of
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.flop_counter import FlopCounterMode

import kronfx as kx
from kronfx.svg import line_chart

LAYERS, HEAD, CONTEXT = 4, 64, 64
RATES, SPECTRAL, REST = (5e-4, 1e-3, 2e-3), (0.02, 0.04), 8e-3  # AdamW's; Muon's; AdamW's for what Muon leaves
WARM_UP, DECAY, SEARCH, EVALUATIONS = 0.05, 0.01, 0.5, 12  # shares of the steps; weight decay; points of a curve
ENDS = ("blocks.*.out", "blocks.*.down")  # the maps that end a residual branch

Optimizers = Callable[[nn.Module, float], list[Optimizer]]


@dataclass(frozen=True)
class Contender:
    """A model and how it is trained."""

    name: str
    build: Callable[[int], nn.Module]
    optimizers: Optimizers
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One training: its validation losses against seconds of it; ``multiply_adds`` are those of a step."""

    name: str
    seed: int
    rate: float
    steps: int
    parameters: int
    multiply_adds: int
    curve: list[tuple[float, float]]

    @property
    def seconds(self) -> float:
        """How long the training took."""
        return self.curve[-1][0]

    @property
    def loss(self) -> float:
        """Where it ended."""
        return self.curve[-1][1]

    def by_work(self) -> list[tuple[float, float]]:
        """Its validation losses against 10^12 multiply-adds: every step has the same."""
        whole = self.multiply_adds * self.steps / 1e12
        return [(seconds / self.seconds * whole, loss) for seconds, loss in self.curve]

    def share_to(self, loss: float) -> float | None:
        """The share of the training after which ``loss`` was reached, between evaluations along a straight line."""
        for (before, high), (after, low) in zip(self.curve, self.curve[1:]):
            if low <= loss:
                return (before + (after - before) * (high - loss) / (high - low)) / self.seconds
        return None


def dense(width: int, alphabet: int) -> Callable[[int], nn.Module]:
    """Its branches start at zero, as the factored model's do."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = GPT(alphabet, width, LAYERS, max(1, width // HEAD), CONTEXT)
        for block in model.blocks:
            nn.init.zeros_(block.out.weight)
            nn.init.zeros_(block.down.weight)
        return model

    return build


def factored(width: int, alphabet: int, block: tuple[int, int], rank: int, rows: int) -> Callable[[int], nn.Module]:
    """All maps of the blocks as sums of Kronecker products."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = GPT(alphabet, width, LAYERS, max(1, width // HEAD), CONTEXT)
        return kx.factorize(model, rank=rank, block=block, include="blocks.*", rows=rows, zero_start=ENDS)

    return build


def adamw(model: nn.Module, rate: float) -> list[Optimizer]:
    """One rate for all parameters."""
    return [AdamW(model.parameters(), lr=rate, weight_decay=DECAY)]


def adamw_factors(model: nn.Module, rate: float) -> list[Optimizer]:
    """The dense model's rate, and what it comes to for every factor."""
    return [AdamW(kx.train.param_groups(model, rate, weight_decay=DECAY))]


def muon(model: nn.Module, rate: float) -> list[Optimizer]:
    """Torch's, for the maps of the blocks."""
    maps = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.ndim == 2]
    rest = [p for name, p in model.named_parameters() if not (name.startswith("blocks") and p.ndim == 2)]
    return [Muon(maps, lr=rate, weight_decay=0.0), AdamW(rest, lr=REST, weight_decay=DECAY)]


def muon_factors(model: nn.Module, rate: float) -> list[Optimizer]:
    """The same for factors."""
    factors = kx.train.KroneckerMuon(model, lr=rate)
    return [factors, AdamW(factors.rest(model), lr=REST, weight_decay=DECAY)]


def train(
    model: nn.Module, optimizers: list[Optimizer], corpus: Corpus, steps: int, batch: int, seed: int, points: int
) -> Iterator[tuple[float, float]]:
    """Seconds and validation losses, at so many points. The rate rises linearly, then falls along a cosine."""
    warm = max(1, int(WARM_UP * steps))

    def course(step: int) -> float:
        return min((step + 1) / warm, (1 + math.cos(math.pi * step / steps)) / 2)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimizer, course) for optimizer in optimizers]
    generator, seconds = torch.Generator().manual_seed(seed), 0.0
    due = {round(steps * point / points) for point in range(1, points + 1)}
    for step in range(1, steps + 1):
        start = time.perf_counter()
        loss = loss_of(model, *corpus.batch(corpus.training, batch, generator))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for turn in [*optimizers, *schedules]:
            turn.step()
        seconds += time.perf_counter() - start
        if step in due:
            yield seconds, corpus.loss(model)


def work(model: nn.Module, corpus: Corpus, batch: int) -> int:
    """Multiply-adds of a training step: the backward pass takes twice the forward one's."""
    inputs, _ = corpus.batch(corpus.training, batch, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(inputs)
    return 3 * counter.get_total_flops() // 2


class Contest:
    """What all runs share."""

    def __init__(self, corpus: Corpus, given: argparse.Namespace, progress: Progress) -> None:
        self.corpus, self.given, self.progress = corpus, given, progress
        self.end = time.monotonic() + 60 * given.minutes
        self.models: dict[str, nn.Module] = {}  # the last one of every contender

    def run(self, contender: Contender, rate: float, steps: int, seed: int, points: int = EVALUATIONS) -> Run:
        """One training, on the clock."""
        model = self.models[contender.name] = contender.build(seed)
        bar = self.progress.add_task(f"{contender.name}, rate {rate:g}, seed {seed}", total=points)
        optimizers, batch = contender.optimizers(model, rate), self.given.batch
        curve = []
        for point in train(model, optimizers, self.corpus, steps, batch, seed, points):
            curve.append(point)
            self.progress.advance(bar)
        self.progress.remove_task(bar)
        count = sum(p.numel() for p in model.parameters())
        run = Run(contender.name, seed, rate, steps, count, work(model, self.corpus, batch), curve)
        self.progress.console.print(f"{run.name}, rate {rate:g}, seed {seed}: {run.loss:.3f} after {run.seconds:.0f} s")
        return run

    def best_rate(self, contender: Contender) -> float:
        """The rate whose short training ends lowest."""
        if len(contender.rates) == 1:
            return contender.rates[0]
        steps = max(1, int(SEARCH * self.given.steps))
        return min(contender.rates, key=lambda rate: self.run(contender, rate, steps, 0, 1).loss)

    def steps(self, contender: Contender, rate: float) -> int:
        """``--steps``, or as many as ``--seconds`` are enough for."""
        if not self.given.seconds:
            return self.given.steps
        (half, _), (whole, _) = self.run(contender, rate, 20, 0, 2).curve  # the second half: the first warms up
        return round(self.given.seconds * 10 / (whole - half))

    def results(self, contenders: Sequence[Contender]) -> list[Run]:
        """Rates first; then every seed, contenders alternating, until the time is up."""
        rates = {contender.name: self.best_rate(contender) for contender in contenders}
        steps = {contender.name: self.steps(contender, rates[contender.name]) for contender in contenders}
        runs: list[Run] = []
        for seed in range(self.given.seeds):
            for contender in contenders:
                if time.monotonic() > self.end:
                    self.progress.console.print(f"{contender.name}, seed {seed}: left out, the minutes are over")
                    continue
                runs.append(self.run(contender, rates[contender.name], steps[contender.name], seed))
        return runs


def contenders(given: argparse.Namespace, alphabet: int) -> list[Contender]:
    """Dense at its own width and narrower, and factored; by AdamW and by Muon."""
    width, rows = given.width, given.batch * CONTEXT
    narrow = HEAD * round(width * 0.67 / HEAD)  # about half of the work
    name = f"rank {given.rank}, {given.block[0]}x{given.block[1]}"
    sums = factored(width, alphabet, tuple(given.block), given.rank, rows)
    every = [
        Contender(f"dense {width}, AdamW", dense(width, alphabet), adamw, tuple(given.rates or RATES)),
        Contender(f"{name}, AdamW", sums, adamw_factors, tuple(given.rates or RATES)),
        Contender(f"dense {narrow}, AdamW", dense(narrow, alphabet), adamw, tuple(given.rates or RATES)),
        Contender(f"dense {width}, Muon", dense(width, alphabet), muon, SPECTRAL[:1]),
        Contender(f"dense {narrow}, Muon", dense(narrow, alphabet), muon, SPECTRAL[:1]),
        Contender(f"{name}, Muon", sums, muon_factors, SPECTRAL[1:]),
    ]
    return [contender for contender in every if any(word in contender.name for word in given.only.split("|"))]


def table(runs: Sequence[Run]) -> Table:
    """A line a run. *to dense* is the share of dense AdamW's seconds, and of its multiply-adds, after which its last
    loss was reached: of the run with the same seed, the first contender's."""
    head = ("contender", "seed", "rate", "steps", "parameters", "s a step", "seconds", "validation loss")
    shown = Table(*head, "to dense: seconds", "multiply-adds", title="tinyshakespeare", width=130)
    for run in runs:
        first = next(other for other in runs if other.seed == run.seed)
        share = run.share_to(first.loss)
        reached = ["-", "-"]
        if share is not None:
            done = run.multiply_adds * run.steps / (first.multiply_adds * first.steps)
            reached = [f"{share * run.seconds / first.seconds:.0%}", f"{share * done:.0%}"]
        cells = (run.name, str(run.seed), f"{run.rate:g}", f"{run.steps:,}", f"{run.parameters:,}")
        shown.add_row(*cells, f"{run.seconds / run.steps:.3f}", f"{run.seconds:.0f}", f"{run.loss:.3f}", *reached)
    return shown


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a text, or the folder of its input.txt (default: tinyshakespeare)")
    parser.add_argument("--out", type=Path, default=Path("results") / "tiny_gpt", help="folder of what is written")
    parser.add_argument("--only", default="", help="contenders whose name holds one of these words, a|b")
    parser.add_argument("--rates", type=float, nargs="+", help=f"AdamW's rates to search (default: {RATES})")
    parser.add_argument("--block", type=int, nargs=2, default=(32, 32), help="output rows first")
    parser.add_argument("--seconds", type=float, default=0, help="of every training, instead of --steps")
    parser.add_argument("--minutes", type=float, default=60, help="after which no further training begins")
    numbers = {"width": 384, "rank": 4, "steps": 400, "batch": 16, "seeds": 1, "threads": 2, "length": 200}
    for name, value in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


def main() -> None:
    """Race, draw, and let the factored one speak."""
    given = arguments()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    corpus = load(given.data, CONTEXT)
    with Progress(console=Console(stderr=True)) as progress:
        contest = Contest(corpus, given, progress)
        runs = contest.results(contenders(given, len(corpus.alphabet)))
    Console(width=130).print(table(runs))
    (given.out / "runs.json").write_text(json.dumps([asdict(run) for run in runs], indent=1))
    first = [run for run in runs if run.seed == 0]
    loss, title = "validation loss (nats)", "tinyshakespeare"
    line_chart(given.out / "seconds.svg", {r.name: r.curve for r in first}, title, "seconds of training", loss)
    line_chart(given.out / "work.svg", {r.name: r.by_work() for r in first}, title, "10^12 multiply-adds", loss)
    for name, model in contest.models.items():
        if kx.factors(model):
            path = given.out / f"{name.replace(' ', '_').replace(',', '')}.onnx"
            example = corpus.batch(corpus.validation, 2, torch.Generator())[0]
            report = kx.export_onnx(model.eval(), path, example, optimize_for="size")
            print(f"{name}, {report.bytes:,} bytes:\n{generate(path, corpus, given.length)}\n")


if __name__ == "__main__":
    main()
