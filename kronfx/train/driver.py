"""What the trainer callbacks share: a BlockSparsity that lives as long as a training, its schedule, its figures."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer

from kronfx.errors import TrainError
from kronfx.train.block_sparsity import BlockSparsity

Schedule = Callable[[float], float]  # share of the training in [0, 1] -> share of the strength


class SparsityDriver:
    """Options first, the model when the training begins.

    ``strength`` and ``target`` are :class:`BlockSparsity`'s. With a ``schedule`` the strength at progress ``t`` (from 0
    to 1) is ``strength * schedule(t)``: ``lambda t: min(1, 4 * t)`` warms up over the first quarter. ``strength`` is
    kept current, so that a resumed training goes on from it.

    Raises TrainError: a schedule and a target (which finds its own strength); a schedule that gives a negative or
    non-finite value; and whatever BlockSparsity raises.
    """

    def __init__(self, strength: float, target: float | None, schedule: Schedule | None) -> None:
        if target is not None and schedule is not None:
            remedy = "leave the schedule out: a target finds its own strength"
            raise TrainError("", "a target and a schedule", "one of the two", remedy)
        self.strength, self._target, self._schedule = strength, target, schedule
        self._sparsity: BlockSparsity | None = None

    def begin(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Take the model as it is trained now, wrapped or sharded, and the optimizer that trains it."""
        self._sparsity = BlockSparsity(model, self.strength, self._target, optimizer)

    def step(self, progress: float) -> None:
        """After an optimizer step, at this share of the training."""
        if self._sparsity is None:
            return
        if self._schedule is not None:
            self._sparsity.strength = self.strength * _share(self._schedule, progress)
        self._sparsity.step()
        if self._target is not None:
            self.strength = self._sparsity.strength

    def figures(self) -> dict[str, float]:
        """What a log should have: the share of blocks that are exactly zero, the penalty's value, the strength."""
        if self._sparsity is None:
            return {}
        return {
            "block_sparsity": self._sparsity.sparsity(),
            "block_penalty": float(self._sparsity.penalty()),
            "block_strength": self._sparsity.strength,
        }


def _share(schedule: Schedule, progress: float) -> float:
    share = float(schedule(progress))
    if not (math.isfinite(share) and share >= 0):
        remedy = "return the share of the strength, 1.0 for all of it"
        raise TrainError("", f"schedule({progress:.3g}) = {share}", "a finite share of 0 or more", remedy)
    return share
