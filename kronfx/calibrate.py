"""``kronfx.calibrate``: three rates of this machine, from timing the evaluations themselves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from scipy.optimize import nnls
from torch import Tensor

from kronfx import kron
from kronfx.cost import work
from kronfx.errors import PlanError
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape, Rates

SHAPES = (
    KroneckerShape(16, 16, 16, 16),
    KroneckerShape(32, 32, 32, 32),
    KroneckerShape(128, 8, 8, 64),
    KroneckerShape(8, 64, 128, 8),
    KroneckerShape(1, 512, 512, 1),
    KroneckerShape(1024, 1, 1, 1024),
)
RANKS = (1, 4)
RUNS = 5
_ATTOSECONDS = 1e18


def calibrate(
    *,
    rows: int = 256,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    backward: bool = False,
) -> Rates:
    """Measure what a multiply-add, an entry and a product take here: a few seconds, once a machine.

    Each of the three evaluations runs at a dozen shapes and ranks over ``rows`` rows, with its backward pass where
    ``backward`` asks for rates of training. The three rates are the non-negative least squares fit to the *relative*
    errors of the predicted times. Keep them with ``Rates.to_json``. Raises PlanError.
    """
    if type(rows) is not int or rows < 1:
        raise PlanError("", f"rows={rows!r}", "a positive number of rows", "pass the batch you expect")
    cases = list(product(SHAPES, RANKS, EVALUATIONS))
    samples: list[tuple[float, float, float]] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        for shape, rank, evaluation in progress.track(cases, description="timing"):
            counted = work(shape, rank, rows, evaluation)
            seconds = _seconds(shape, rank, rows, evaluation, torch.device(device), dtype, backward)
            entries = counted.activations + counted.weights
            samples.append((counted.forward / seconds, entries / seconds, 2 / seconds))
    fitted, _ = nnls(np.array(samples), np.full(len(samples), 1.0))
    step = "forward and backward" if backward else "forward"
    measured = f"{step}, {rows} rows, {str(dtype).removeprefix('torch.')}, {device}, {torch.get_num_threads()} threads"
    multiply_add, entry, product_ = (round(rate * _ATTOSECONDS) for rate in fitted.tolist())
    return Rates(multiply_add, entry, product_, measured)


_RUN: dict[Evaluation, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "a_first": lambda x, S, A, B: kron.a_first(x, S, A, B, kron.shape_of(A, B), A.shape[0]),
    "b_first": lambda x, S, A, B: kron.b_first(x, S, A, B, kron.shape_of(A, B), A.shape[0]),
    "materialize": kron.materialized,
}


def _seconds(
    shape: KroneckerShape,
    rank: int,
    rows: int,
    evaluation: Evaluation,
    device: torch.device,
    dtype: torch.dtype,
    backward: bool,
) -> float:
    """The median time of one call, after two that are not counted."""
    sizes = ((rows, shape.n), (shape.m1, shape.n1), (rank, shape.m1, shape.n1), (rank, shape.m2, shape.n2))
    tensors = [torch.randn(size, device=device, dtype=dtype, requires_grad=backward) for size in sizes]
    seconds = []
    for _ in range(RUNS + 2):
        _wait(device)
        start = time.perf_counter()
        y = _RUN[evaluation](*tensors)
        if backward:
            y.sum().backward()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
