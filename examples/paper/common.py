"""What the paper's tables share: a recipe, the methods, and what a run is measured by.

A script lists its :class:`Row`s; ``run`` trains each with every seed and makes a :class:`Result` of it; ``table.Table``
keeps them as JSON and as Markdown, anew after every training, and hands them back with ``--resume``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import onnxruntime as ort
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import Optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of examples/

import kronfx as kx
from kronfx.train.parts.dense import GroupsWish
from kronfx.train.penalties.penalty import Penalty

Build = Callable[[nn.Module, Optimizer, int], Penalty]  # of the model, what trains it, and for how many steps

WARM_UP = 0.2  # of the steps, to the highest rate
LASSO = 0.001  # the strength from which the closed loop of the group lassos sets out, under SGD
SGD = partial(torch.optim.SGD, momentum=0.9)  # which those need: see kronfx.train.GroupLasso
RECORDED = 50  # lines of a training's history


class Batches(Protocol):
    """What a training reads: batches of inputs and labels, as often as it is asked. A DataLoader is one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True)
class InMemory:
    """Shuffled batches of tensors."""

    inputs: Tensor
    labels: Tensor
    batch: int

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(len(self.inputs)).split(self.batch):
            yield self.inputs[rows], self.labels[rows]


@dataclass(frozen=True)
class Paper:
    """A line of a table in the paper: accuracy and zero blocks in percent, trainable parameters as printed."""

    accuracy: float
    sparsity: float | None = None
    parameters: float | None = None


@dataclass(frozen=True)
class Recipe:
    """An optimizer with a one-cycle rate."""

    epochs: int
    rate: float
    optimizer: Callable[..., Optimizer] = torch.optim.Adam


@dataclass(frozen=True)
class Row:
    """One line of a table: what is trained, how, and the paper's figures for it."""

    name: str
    method: str
    build: Callable[[], nn.Module]
    penalty: Build | None
    recipe: Recipe
    paper: Paper | None = None
    note: str = ""


@dataclass(frozen=True)
class Result:
    """One run, with one seed. Accuracies and sparsity in percent; ``sparsity`` is the share of the groups of the
    penalty that are exactly zero; ``step_mb`` is what a training step keeps (parameters, gradients, the optimizer's
    state, and what is saved for the backward pass), in 10^6 bytes; on a GPU the peak of what is allocated."""

    name: str
    method: str
    seed: int
    accuracy: float
    classes: list[float]
    onnx_accuracy: float
    sparsity: float | None
    parameters: int
    seconds: float
    step_mb: float


def ours(target: float) -> Build:
    """Blocks of the factored layers."""
    return lambda model, optimizer, steps: kx.train.BlockSparsity(
        model, target=target, optimizer=optimizer, steps=steps
    )


def lasso(groups: GroupsWish, target: float) -> Build:
    """Group LASSO on a dense model, for SGD."""
    return lambda model, optimizer, steps: kx.train.GroupLasso(model, groups, LASSO, target, optimizer, steps=steps)


def elastic(groups: GroupsWish, target: float) -> Build:
    """Elastic group LASSO on a dense model, for SGD."""
    return lambda model, optimizer, steps: kx.train.ElasticGroupLasso(
        model, groups, LASSO, target, optimizer, steps=steps
    )


def pruning(groups: GroupsWish, target: float) -> Build:
    """Ten rounds of magnitude pruning of a dense model, over the first four tenths of the steps."""

    def build(model: nn.Module, optimizer: Optimizer, steps: int) -> Penalty:
        share = kx.train.Stepped(target / 10, target / 10, every=max(1, steps // 25), end=target)
        return kx.train.MagnitudePruning(model, groups, share, optimizer)

    return build


def run(
    rows: Sequence[Row],
    train_set: Batches,
    test: tuple[Tensor, Tensor],
    given: argparse.Namespace,
    done: Sequence[Result],
    keep: Callable[[Sequence[Result]], object],
) -> list[Result]:
    """Every row with every seed, each measured, but for those that are ``done``; ``keep`` gets all after each."""
    results = list(done)
    finished = {(r.name, r.method, r.seed) for r in done}
    todo = [(row, seed) for row in rows for seed in range(given.seeds) if (row.name, row.method, seed) not in finished]
    with Progress(console=Console(stderr=True)) as progress:
        for row, seed in todo:
            torch.manual_seed(seed)
            stem = given.out / f"{row.name} {row.method} {seed}".strip().replace(" ", "-").replace(",", "")
            bar = progress.add_task(f"{row.name}, {row.method}, seed {seed}", total=row.recipe.epochs)
            results.append(_one(row, seed, train_set, test, stem, lambda bar=bar: progress.advance(bar)))
            keep(results)
            progress.console.print(_told(results[-1]))
            progress.remove_task(bar)
    return results


def _one(
    row: Row, seed: int, train_set: Batches, test: tuple[Tensor, Tensor], stem: Path, tick: Callable[[], None]
) -> Result:
    model = row.build()
    memory, seconds, penalty = train(model, row, train_set, stem, tick)
    model = kx.fold(model.eval()) if kx.factors(model) else model.eval()
    path = stem.with_suffix(".onnx")
    kx.export_onnx(model, path, test[0][:8])
    classes = accuracy(predict(model, test[0]), test[1])
    onnx = accuracy(predict_onnx(path, test[0]), test[1])
    sparsity = None if penalty is None else 100 * penalty.sparsity()
    count = trainable(row.build())
    return Result(row.name, row.method, seed, classes[-1], classes[:-1], onnx[-1], sparsity, count, seconds, memory)


def train(
    model: nn.Module, row: Row, batches: Batches, stem: Path, tick: Callable[[], None]
) -> tuple[float, float, Penalty | None]:
    """``(MB of a step, seconds, penalty)`` of one training; its history lies at ``stem.jsonl`` and ``stem.svg``."""
    steps = row.recipe.epochs * len(batches)
    optimizer = row.recipe.optimizer(model.parameters(), lr=row.recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, row.recipe.rate, total_steps=steps, pct_start=WARM_UP, cycle_momentum=False
    )
    penalty = None if row.penalty is None else row.penalty(model, optimizer, steps)
    history = kx.train.History(stem.with_suffix(".jsonl"))
    history.path.unlink(missing_ok=True)
    memory, step, start = 0.0, 0, time.perf_counter()
    for _ in range(row.recipe.epochs):
        for inputs, labels in batches:
            saved = _Saved() if step == 1 else None  # the optimizer has its state by then
            loss = _loss(model, inputs, labels, saved)
            loss.backward()
            optimizer.step()
            if saved is not None:
                memory = saved.megabytes(model, optimizer)
            if penalty is not None:
                penalty.step()
                if step % max(1, steps // RECORDED) == 0:
                    history.record(step, penalty, loss=float(loss.detach()))
            optimizer.zero_grad()
            schedule.step()
            step += 1
        tick()
    seconds = time.perf_counter() - start
    if penalty is not None:
        history.draw(stem.with_suffix(".svg"))
    return memory, seconds, penalty


def _loss(model: nn.Module, inputs: Tensor, labels: Tensor, saved: _Saved | None) -> Tensor:
    if saved is None:
        return F.cross_entropy(model(inputs), labels)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda x: x):
        return F.cross_entropy(model(inputs), labels)


class _Saved:
    """Adds up the storages that autograd keeps, each once."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}

    def pack(self, x: Tensor) -> Tensor:
        """A hook of ``saved_tensors_hooks``."""
        self.bytes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    def megabytes(self, model: nn.Module, optimizer: Optimizer) -> float:
        """With parameters, gradients and the optimizer's state, in 10^6 bytes; on a GPU the peak so far."""
        parameters = list(model.parameters())
        if parameters[0].is_cuda:
            return torch.cuda.max_memory_allocated() / 1e6
        state = [x for values in optimizer.state.values() for x in values.values() if isinstance(x, Tensor)]
        kept = [*parameters, *(p.grad for p in parameters if p.grad is not None), *state]
        for x in kept:
            self.pack(x)
        return sum(self.bytes.values()) / 1e6


@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor) -> Tensor:
    """The class of every input, in torch."""
    return torch.cat([model(batch).argmax(1) for batch in inputs.split(500)]).cpu()


def predict_onnx(path: Path, inputs: Tensor) -> Tensor:
    """The class of every input, in stock onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    runs = (session.run(None, {name: batch.cpu().numpy()})[0] for batch in inputs.split(500))
    return torch.cat([torch.from_numpy(logits).argmax(1) for logits in runs])


def accuracy(found: Tensor, labels: Tensor) -> list[float]:
    """Percent of each class that is recognized, and, last, of all."""
    hits = (found == labels).double()
    return [100 * float(hits[labels == c].mean()) for c in labels.unique()] + [100 * float(hits.mean())]


def trainable(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _told(r: Result) -> str:
    zero = "" if r.sparsity is None else f", {r.sparsity:.2f}% zero"
    return f"{r.name}, {r.method}, seed {r.seed}: {r.accuracy:.2f}%{zero}, {r.seconds:.0f} s"


def arguments(doc: str, out: str, epochs: int) -> argparse.Namespace:
    """The command line of every table."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data (default: in data/ beside examples/, downloaded)")
    parser.add_argument("--out", type=Path, default=Path("results") / out, help="folder of what is written")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every row, with seeds 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=epochs, help="of every training (default: %(default)s)")
    parser.add_argument("--only", default="", help="rows whose name (blocks and method, or the model) holds this text")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--resume", action="store_true", help="skip what --out has already; refuses other --epochs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    return given
