"""The closed loop that finds the strength at which the wished share of the groups is zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kronfx.errors import TrainError, warn
from kronfx.train.course.stepper import TINY
from kronfx.train.course.survivors import guarded
from kronfx.train.course.target import Goal

GROWTH = 1.005  # of the strength, per step, while the share of zero groups is below the target
STALLED = 2000  # steps without one more zero group (a strength 20,000 times as large) before the loop says so
HAIR = 1e-6  # a relative step beyond a size: rounding leaves no remainder of it, or none of what is to stay


@dataclass
class Loop:
    """The strength of one goal: it grows by 0.5% a step (twofold in 140) while fewer groups are zero than wished, and
    no step shrinks further than reaching the target takes."""

    goal: Goal
    strength: float
    best: int = -1
    waited: int = 0

    def thresholds(self, sizes: Sequence[Tensor], rates: Sequence[float]) -> tuple[list[float], list[bool]]:
        """Learning rate times strength for every part, less where that would take more than the part's floor leaves;
        and for which parts that was so."""
        strength = self.toward(sizes, rates)
        stays = torch.stack([size.topk(floor).values[-1] for size, floor in zip(sizes, self.goal.floors)]).tolist()
        wished = [rate * strength for rate in rates]
        bound = [threshold >= size > 0 for threshold, size in zip(wished, stays)]
        limits = [size * (1 - HAIR) for size in stays]
        return [min(pair) for pair in zip(wished, limits)], bound

    def toward(self, sizes: Sequence[Tensor], rates: Sequence[float]) -> float:
        """The strength of this step: ours, or the smaller one at which ``count`` groups are zero."""
        every = torch.cat([size / rate for size, rate in zip(sizes, rates)])
        open_to_it = torch.cat([size / rate for size, rate in zip(guarded(sizes, self.goal.floors), rates)])
        last = float(open_to_it.kthvalue(self.goal.count).values)
        if last > self.strength:
            self.strength *= GROWTH
            self._watch(int((every == 0).sum()), len(every), min(rates))
        return min(self.strength, last * (1 + HAIR))

    def state(self) -> list[float]:
        """What a resumed training goes on from."""
        return [self.strength, self.best, self.waited]

    def restore(self, state: Sequence[float]) -> None:
        """Go on from there."""
        self.strength, self.best, self.waited = state[0], int(state[1]), int(state[2])

    def _watch(self, zero: int, groups: int, rate: float) -> None:
        self.best, self.waited = (zero, 0) if zero > self.best else (self.best, self.waited + 1)
        if self.waited == STALLED:
            why = "a learning rate of 0" if rate <= TINY else f"learning rate {rate:.3g}, strength {self.strength:.3g}"
            text = f"train: {STALLED} steps and no more than {self.best} of {groups} groups are zero ({why})"
            remedy = "raise the learning rate of what is shrunk, or give more steps"
            warn(f"{text}; the target {self.goal.target:g} is out of reach this way: {remedy}")


def loops(goals: Mapping[str, Goal], strength: float) -> dict[str, Loop]:
    """A loop for every goal. Raises TrainError on a strength of 0."""
    if strength == 0:
        remedy = "start from 0.1, the default"
        raise TrainError("", "strength=0 with a target", "a positive strength to start from", remedy)
    return {name: Loop(goal, strength) for name, goal in goals.items()}
