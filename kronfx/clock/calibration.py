"""``kronfx.calibrate``: three rates of this machine, from timing the layers themselves."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from kronfx.cost import Step, step, work
from kronfx.errors import PlanError
from kronfx.layers import KroneckerLinear
from kronfx.progress import bar
from kronfx.records import ATTOSECONDS, EVALUATIONS, Evaluation, KroneckerShape, Rates

SHAPES = (
    KroneckerShape(24, 24, 32, 32),
    KroneckerShape(64, 64, 16, 16),
    KroneckerShape(48, 48, 8, 8),
    KroneckerShape(32, 8, 16, 64),
    KroneckerShape(8, 32, 64, 16),
)
RANKS = (1, 4)
SHARES = (4, 1)  # of the rows: a call costs the more the fewer there are
RUNS = 4
ENOUGH = 0.04  # seconds of timing one case
BUDGET = 1.8  # seconds of timing them all: on a busy machine the last cases, the largest, go untimed
FEWEST = 15  # but so many do not


def calibrate(
    *,
    rows: int = 1024,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    backward: bool = False,
) -> Rates:
    """Measure what a multiply-add, an entry and a product take here, in under two seconds.

    Each of the three evaluations runs at several shapes and ranks over ``rows`` rows and a fourth of them, with its
    backward pass where ``backward`` asks for rates of training. The three rates are the non-negative least squares fit
    to the *relative* errors of the predicted times. Keep them with ``Rates.to_json``. ``kronfx.plan`` measures those of
    training by itself, once a machine, and keeps them. Raises PlanError.
    """
    if type(rows) is not int or rows < 1:
        raise PlanError("", f"rows={rows!r}", "a positive number of rows", "pass the batch you expect")
    return measured(rows, dtype, torch.device(device), backward).rates


@dataclass(frozen=True, slots=True)
class Measured:
    """Rates, and the root mean square of their relative errors on what they were fitted to."""

    rates: Rates
    error: float


def measured(rows: int, dtype: torch.dtype, device: torch.device, backward: bool) -> Measured:
    """What :func:`calibrate` finds."""
    cases = list(product(SHARES, RANKS, SHAPES, EVALUATIONS))
    samples: list[tuple[float, float, float]] = []
    with bar("timing", len(cases)) as begin, torch.random.fork_rng(devices=[]):
        start = time.perf_counter()
        for share, rank, shape, evaluation in cases:
            if len(samples) >= FEWEST and time.perf_counter() - start > BUDGET:
                break
            begin(f"{shape}, rank {rank}, {evaluation}")
            count = -(-rows // share)
            counted = _counted(shape, rank, count, evaluation, backward)
            layer = KroneckerLinear(shape, rank, evaluation, bias=False).to(device, dtype).requires_grad_(backward)
            x = torch.randn(count, shape.n).to(device, dtype).requires_grad_(backward)
            seconds = _least(layer, x)
            samples.append((counted.multiply_adds / seconds, counted.entries / seconds, counted.products / seconds))
    fitted, residual = nnls(np.array(samples), np.full(len(samples), 1.0))
    passes = "forward and backward" if backward else "forward"
    how = f"{passes}, {rows} rows, {str(dtype).removeprefix('torch.')}, {device}, {torch.get_num_threads()} threads"
    multiply_add, entry, product_ = (round(rate * ATTOSECONDS) for rate in fitted.tolist())
    return Measured(Rates(multiply_add, entry, product_, how), float(residual) / math.sqrt(len(samples)))


def _counted(shape: KroneckerShape, rank: int, rows: int, evaluation: Evaluation, backward: bool) -> Step:
    if backward:
        return step(shape, rank, rows, evaluation)
    forward = work(shape, rank, rows, evaluation)
    return Step(forward.forward, forward.activations + forward.weights, 2)


def _least(layer: KroneckerLinear, x: Tensor) -> float:
    """Of a few calls after a first one that is not counted, the shortest: the others were disturbed."""
    seconds_of(layer, x)
    seconds: list[float] = []
    while len(seconds) < RUNS and sum(seconds) < ENOUGH:
        seconds.append(seconds_of(layer, x))
    return min(seconds)


def seconds_of(layer: KroneckerLinear, x: Tensor) -> float:
    """Seconds of one pass over ``x``: forward, and backward where ``x`` asks for a gradient. It leaves none behind."""
    wanted = [tensor for tensor in (x, *layer.parameters()) if tensor.requires_grad]
    wait(x.device)
    start = time.perf_counter()
    with torch.set_grad_enabled(bool(wanted)):
        y = layer.forward(x)
        if wanted:
            torch.autograd.grad(y, wanted, torch.ones_like(y))
    wait(x.device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Until a device is done with what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
