"""One model through every promise: coverage, exactness, work, training, fold, checkpoint, ONNX."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import Tensor, nn

import kronfx as kx
from zoo.coverage import Coverage, cover, matrices, serves
from zoo.deployed import deploy
from zoo.ends import found_ends
from zoo.entry import Entry, call
from zoo.outcome import Outcome, deviation, judged
from zoo.work import work

RANK = 2  # of the trained model: small, yet more than one term in every sum
STEPS = 3

Column = Literal["rewritten", "exact", "works", "ends", "trains", "folds", "reloads", "deploys"]


@dataclass(frozen=True)
class Row:
    """What the zoo found about one model; a column is an Outcome."""

    name: str
    rewritten: Outcome
    exact: Outcome
    works: Outcome
    ends: Outcome
    trains: Outcome
    folds: Outcome
    reloads: Outcome
    deploys: Outcome
    coverage: Coverage | None
    seconds: float


def check(entry: Entry) -> Row:
    """Every column of one model; a column that cannot be computed holds the error that stopped it."""
    with _one_thread():
        return _row(entry)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """On matrices this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(entry: Entry) -> Row:
    started = time.perf_counter()
    covered: list[Coverage] = []
    rewritten = _attempt(partial(_rewritten, entry, covered))
    exact = _attempt(partial(_exact, entry))
    trained: list[nn.Module] = []
    trains = _attempt(partial(_trains, entry, trained))
    model = trained[0] if trained else None
    return Row(
        entry.name,
        rewritten,
        exact,
        _attempt(partial(work, entry)),
        _attempt(partial(found_ends, entry)),
        trains,
        _attempt(partial(_folds, entry, model)),
        _attempt(partial(_reloads, entry, model)),
        _attempt(partial(_deploys, entry, model)),
        covered[0] if covered else None,
        time.perf_counter() - started,
    )


def _attempt(column: Callable[[], Outcome]) -> Outcome:
    try:
        return column()
    except Exception as error:  # whatever a model of the zoo runs into belongs in the table
        lines = str(error).strip().splitlines()
        return Outcome("fails", f"{type(error).__name__}: {lines[0] if lines else ''}")


def _rewritten(entry: Entry, covered: list[Coverage]) -> Outcome:
    """Full rank never refuses a layer for its size, so what is left alone is left for another reason."""
    dense = entry.model()
    plan = kx.plan(dense, rank="full")
    coverage = cover(dense, kx.factorize(dense, plan), plan)
    covered.append(coverage)
    share = f"{100 * coverage.share:.4g}%"
    if coverage.silent:
        return Outcome("fails", f"{share}; left alone without a reason: {', '.join(coverage.silent)}")
    if coverage.missed:
        return Outcome("fails", f"{share}; missed: {', '.join(coverage.missed)}")
    return Outcome("holds", share)


@torch.no_grad()
def _exact(entry: Entry) -> Outcome:
    """Full-rank nearest factors answer what the dense model answers, in every output; random factors do not."""
    dense, batch = entry.model(), entry.batch(2)
    wanted = call(dense, batch)
    error = deviation(call(kx.factorize(dense, rank="full", init="nearest").eval(), batch), wanted)
    contrast = deviation(call(kx.factorize(dense, rank=1).eval(), batch), wanted)
    if contrast < 1e-2:
        return Outcome("fails", f"other weights change the outputs by {contrast:.0e} only: nothing is shown")
    return judged(error)


def _trains(entry: Entry, trained: list[nn.Module]) -> Outcome:
    """Three steps of SGD: a finite loss, and in every step a non-zero gradient on every S, A and B.

    Excused are the factors of a weight whose own gradient, in the dense model at the same loss, is absent or zero.
    """
    dense, batch = entry.model(), entry.batch(4)
    idle = _idle(entry, dense)
    model = kx.factorize(dense, rank=RANK, zero_start=None).train()  # what starts at zero hides what goes through it
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = entry.loss(call(model, batch))
        loss.backward()
        if not bool(torch.isfinite(loss)):
            return Outcome("fails", f"loss {float(loss)} at step {step}")
        without = _without_gradient(model) - _served(model, idle)
        if without:
            return Outcome("fails", f"no gradient at step {step}: {', '.join(sorted(without))}")
        optimizer.step()
    _prune(model)
    trained.append(model.eval())
    if not kx.factors(model):
        return Outcome("fails", "no factor to train")
    excused = sorted(_served(model, idle))
    return Outcome("holds", f"idle in the dense model too: {', '.join(excused)}" if excused else "")


def _idle(entry: Entry, dense: nn.Module) -> set[str]:
    """Paths of the dense weights that take no part in the loss: their gradient is absent or zero."""
    dense.train()
    entry.loss(call(dense, entry.batch(4))).backward()
    found = {path for path, weight in matrices(dense).items() if not _moves(weight)}
    dense.zero_grad()
    return found


def _without_gradient(model: nn.Module) -> set[str]:
    return {site for site, f in kx.factors(model).items() if not all(map(_moves, (f.S, f.A, f.B)))}


def _served(model: nn.Module, paths: set[str]) -> set[str]:
    return {site for site in kx.factors(model) if any(serves(site, path) for path in paths)}


def _moves(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


@torch.no_grad()
def _prune(model: nn.Module) -> None:
    """Switch off every other block, as training with a penalty would."""
    for factors in kx.factors(model).values():
        factors.S.view(-1)[1::2] = 0.0


@torch.no_grad()
def _folds(entry: Entry, model: nn.Module | None) -> Outcome:
    """The folded model answers what the trained one answers, and has no factors left."""
    if model is None:
        return Outcome("open", "nothing was trained")
    folded, batch = kx.fold(model), entry.batch(2)
    left = ", ".join(kx.factors(folded))
    if left:
        return Outcome("fails", f"still factored: {left}")
    return judged(deviation(call(folded, batch), call(model, batch)))


@torch.no_grad()
def _reloads(entry: Entry, model: nn.Module | None) -> Outcome:
    """A checkpoint onto a fresh model with other weights gives the same answers to the bit."""
    if model is None:
        return Outcome("open", "nothing was trained")
    save, load = getattr(kx, "save", None), getattr(kx, "load", None)
    if save is None or load is None:
        return Outcome("open", "kronfx has no save and load")
    batch = entry.batch(2)
    with TemporaryDirectory() as folder:
        save(model, Path(folder) / "checkpoint")
        loaded = load(entry.model(seed=1), Path(folder) / "checkpoint").eval()
    if loaded.state_dict().keys() != model.state_dict().keys():
        return Outcome("fails", "other state_dict keys than the saved model's")
    return judged(deviation(call(loaded, batch), call(model, batch)), tolerance=0.0)


def _deploys(entry: Entry, model: nn.Module | None) -> Outcome:
    """The folded model as ONNX answers what it answers in torch, at two batch sizes."""
    if model is None:
        return Outcome("open", "nothing was trained")
    return deploy(entry, kx.fold(model))
