"""What the shape of a block costs in accuracy: equal areas, equal shares of zero blocks, so equal parameters.

    python examples/benchmarks/block_shapes_trained.py mnist --data FOLDER --out mnist.jsonl --zeros 0.75 0.9
    python examples/benchmarks/block_shapes_trained.py gpt --data FOLDER_OR_FILE --out gpt.jsonl --zeros 0.9 --seeds 2

``mnist`` is a perceptron 784-512-512-10 whose last layer stays dense, ``gpt`` the character GPT of ``char_gpt.py``, 4
layers 256 wide. AdamW with the rates of ``kx.train.param_groups``, warm-up and cosine, ``kx.train.BlockSparsity`` along
its ramp. Trainings that ``--out`` holds already are not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import kronfx as kx
from kronfx.tables import render

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import char_gpt
import mnist

RANK, WARM_UP, DECAY = 4, 0.05, 0.01
WIDTH, LAYERS, HEADS, CONTEXT, WINDOWS = 256, 4, 4, 64, 16  # of the GPT; windows a batch
BATCH = 128  # images
Batch = tuple[Tensor, Tensor]
Block = tuple[int, int]


@dataclass(frozen=True)
class Task:
    """What is trained: the ``maps`` of a model, on batches of ``rows`` rows; ``score`` is in ``unit``."""

    build: Callable[[], nn.Module]
    maps: tuple[str, ...]
    batch: Callable[[torch.Generator], Batch]
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor]
    score: Callable[[nn.Module], float]
    unit: str
    rows: int
    rate: float
    steps: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Run:
    """One training: ``matrix_rank`` is the least share of full rank that a map's shape allows it."""

    block: Block
    zero: float
    seed: int
    steps: int
    score: float
    zero_blocks: float
    parameters: int
    matrix_rank: float


def perceptron_on_digits(folder: Path | None) -> Task:
    """MNIST, 5 epochs."""
    (images, labels), (unseen, wanted) = mnist.load(folder)

    def build() -> nn.Module:
        sizes = (nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
        return nn.Sequential(nn.Flatten(), *sizes)

    def batch(generator: torch.Generator) -> Batch:
        rows = torch.randint(len(images), (BATCH,), generator=generator)
        return images[rows], labels[rows]

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return 100 * float((model(unseen).argmax(1) == wanted).float().mean())

    return Task(
        build=build,
        maps=("1", "3"),
        batch=batch,
        loss=lambda model, x, y: F.cross_entropy(model(x), y),
        score=accuracy,
        unit="% correct",
        rows=BATCH,
        rate=2e-3,
        steps=5 * len(images) // BATCH,
        blocks=((8, 8), (32, 2), (16, 4), (4, 16)),
    )


def characters(path: Path | None) -> Task:
    """A GPT on tinyshakespeare, 400 steps."""
    corpus = char_gpt.load(path, CONTEXT)
    return Task(
        build=lambda: char_gpt.GPT(len(corpus.alphabet), WIDTH, LAYERS, HEADS, CONTEXT),
        maps=("blocks.*",),
        batch=lambda generator: corpus.batch(corpus.training, WINDOWS, generator),
        loss=char_gpt.loss_of,
        score=corpus.loss,
        unit="validation loss",
        rows=WINDOWS * CONTEXT,
        rate=1e-3,
        steps=400,
        blocks=((32, 32), (128, 8), (64, 16), (16, 64), (8, 128)),
    )


def trained(task: Task, block: Block, zero: float, seed: int, steps: int) -> Run:
    """One training from random factors."""
    torch.manual_seed(seed)
    model = kx.factorize(task.build(), rank=RANK, block=block, include=task.maps, rows=task.rows)
    optimizer = torch.optim.AdamW(kx.train.param_groups(model, task.rate, weight_decay=DECAY))
    warm = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (1 + math.cos(math.pi * step / steps)) / 2)
    )
    sparsity = kx.train.BlockSparsity(model, target=zero, optimizer=optimizer, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        task.loss(model, *task.batch(generator)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        sparsity.step()
        schedule.step()
    shapes = [factors.shape for factors in kx.factors(model).values()]
    return Run(
        block=block,
        zero=zero,
        seed=seed,
        steps=steps,
        score=task.score(model.eval()),
        zero_blocks=sparsity.sparsity(),
        parameters=sum(p.numel() for p in model.parameters()),
        matrix_rank=min(shape.matrix_rank(RANK) / min(shape.m, shape.n) for shape in shapes),
    )


def show(runs: Sequence[Run], unit: str) -> str:
    """A line for each block and share: the mean over the seeds, and what the seeds span."""
    lines = []
    for zero, block in dict.fromkeys((run.zero, run.block) for run in runs):
        same = [run for run in runs if (run.zero, run.block) == (zero, block)]
        scores = [run.score for run in same]
        cells = (f"{min(scores):.3f} .. {max(scores):.3f}", len(same), f"{same[0].zero_blocks:.1%}")
        mean = f"{statistics.mean(scores):.3f}"
        last = (same[0].parameters, f"{same[0].matrix_rank:.0%}")
        lines.append((f"{zero:.0%}", "x".join(map(str, block)), mean, *cells, *last))
    return render(
        f"rank {RANK}, {runs[0].steps:,} steps",
        ("zero", "block", unit, "least .. most", "seeds", "zero blocks", "parameters", "matrix rank"),
        lines,
    )


def read(path: Path) -> list[Run]:
    """What an earlier call kept."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return [Run(**{**entry, "block": tuple(entry["block"])}) for entry in map(json.loads, lines)]


def main() -> None:
    """Train what is not kept yet, keep it, show all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("mnist", "gpt"))
    parser.add_argument("--data", type=Path, help="folder of the data (default: in data/ beside examples/, downloaded)")
    parser.add_argument("--out", type=Path, default=Path("block_shapes.jsonl"), help="one line a training")
    parser.add_argument("--zeros", type=float, nargs="+", default=(0.75, 0.9), help="shares of zero blocks")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="of every training (default: the task's)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no further training begins")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    task = (perceptron_on_digits if given.task == "mnist" else characters)(given.data)
    steps, end = given.steps or task.steps, time.monotonic() + 60 * given.minutes
    runs = [run for run in read(given.out) if run.steps == steps]
    done = {(run.block, run.zero, run.seed) for run in runs}
    wanted = [(b, z, s) for z in given.zeros for s in range(given.seeds) for b in task.blocks if (b, z, s) not in done]
    for block, zero, seed in track(wanted, console=Console(stderr=True)):
        if time.monotonic() > end:
            break
        runs.append(trained(task, block, zero, seed, steps))
        with given.out.open("a") as file:
            file.write(json.dumps(asdict(runs[-1])) + "\n")
    print(show(sorted(runs, key=lambda run: run.zero), task.unit))


if __name__ == "__main__":
    main()
