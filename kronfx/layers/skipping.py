"""When a factored layer multiplies its surviving blocks only: by wish, or where the clock says that it pays."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx.layers.blocks import by_blocks, surviving
from kronfx.layers.factors import Factors
from kronfx.layers.pattern import Pattern

Run = Callable[[Tensor, Factors], Tensor]
ROUNDS = 3  # of which each evaluation's fastest counts, after one that warms up


def skipped(x: Tensor, factors: Factors, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """``x [..., n] -> x W^T + bias [..., m]`` by the survivors; of a padded shape as :class:`Factors` has it."""
    values = surviving(factors, pattern)
    if factors.features is None:
        return by_blocks(x, values, bias, pattern)
    m, n = factors.features
    x = F.pad(x, (0, pattern.shape.n - n))
    bias = None if bias is None else F.pad(bias, (0, pattern.shape.m - m))
    return by_blocks(x, values, bias, pattern)[..., :m].contiguous()


@dataclass(slots=True, eq=False)
class Skipping:
    """Of one layer, what it knows about its zeros: looked at anew whenever ``S`` has others.

    ``forced``: the survivors are multiplied whatever it takes. Else both ways are timed, forward and backward, on what
    the layer is called with in training, once a pattern.
    """

    forced: bool
    pattern: Pattern | None = None
    pays: bool = False

    def pattern_for(self, x: Tensor, factors: Factors, planned: Run) -> Pattern | None:
        """The pattern to multiply by; None where the planned evaluation is to run."""
        known = self.pattern
        if known is None or not known.fits(factors.S):
            found = Pattern.of(factors.S, factors.shape)
            if not self.forced and not (torch.is_grad_enabled() and x.numel()):
                return None  # nothing is known, and this call shows nothing
            self.pattern, self.pays = found, self.forced or faster(x, factors, planned, found)
        return self.pattern if self.pays else None

    def __str__(self) -> str:
        if self.pattern is None or not self.pays:
            return ""
        return f"blocks ({len(self.pattern)} of {self.pattern.shape.blocks})"


def faster(x: Tensor, factors: Factors, planned: Run, pattern: Pattern) -> bool:
    """Whether a training step on ``x`` takes less by the survivors, both timed by turns on copies.

    Nobody notices: no gradient is accumulated, and hooks that pack what is saved (checkpointing) see nothing.
    """
    if len(pattern) == pattern.shape.blocks:
        return False
    runs: tuple[Run, Run] = (planned, lambda x, factors: skipped(x, factors, None, pattern))
    unpacked = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    with torch.inference_mode(False), torch.enable_grad(), unpacked:
        x, S, A, B = (tensor.detach().clone().requires_grad_() for tensor in (x, factors.S, factors.A, factors.B))
        copies = Factors(S, A, B, factors.features)
        rounds = [[_seconds(run, x, copies) for run in runs] for _ in range(1 + ROUNDS)]
    now, by_survivors = (min(times) for times in zip(*rounds[1:]))
    return bool(by_survivors < now)


def _seconds(run: Run, x: Tensor, factors: Factors) -> float:
    start = time.perf_counter()
    y = run(x, factors)
    torch.autograd.grad(y, (x, factors.S, factors.A, factors.B), torch.ones_like(y))
    return time.perf_counter() - start
