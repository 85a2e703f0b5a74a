"""``target=0.8``: the closed loop that finds the strength at which the wished share of the groups is zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kronfx.errors import TrainError
from kronfx.train.names import by_name
from kronfx.train.pace import TINY
from kronfx.train.schedules import is_number

GROWTH = 1.005  # of the strength, per step, while the share of zero groups is below the target
STALLED = 2000  # steps without one more zero group (a strength 20,000 times as large) before the loop says so
TOLERANCE = 0.01  # of the target: a share that is further from every whole number of groups cannot be meant

Target = float | Mapping[str, float]


@dataclass
class Loop:
    """One target and the parts it is a share of: ``count`` of their groups are to be zero.

    The strength grows by 0.5% a step (twofold in 140) while fewer are, and no step shrinks further than reaching the
    target takes.
    """

    target: float
    names: tuple[str, ...]
    count: int
    strength: float
    best: int = -1
    waited: int = 0

    def toward(self, sizes: Sequence[Tensor], rates: Sequence[float]) -> float:
        """The strength of this step: ours, or the smaller one at which ``count`` groups are zero."""
        every = torch.cat([size / rate for size, rate in zip(sizes, rates)])
        last = float(every.kthvalue(self.count).values)
        if last > self.strength:
            self.strength *= GROWTH
            self._watch(int((every == 0).sum()), len(every), min(rates))
        return min(self.strength, last * (1 + 1e-6))  # a hair more: rounding leaves no remainder of that group

    def _watch(self, zero: int, groups: int, rate: float) -> None:
        self.best, self.waited = (zero, 0) if zero > self.best else (self.best, self.waited + 1)
        if self.waited == STALLED:
            why = "a learning rate of 0" if rate <= TINY else f"learning rate {rate:.3g}, strength {self.strength:.3g}"
            text = f"train: {STALLED} steps and no more than {self.best} of {groups} groups are zero ({why})"
            remedy = "raise the learning rate of what is shrunk, or give more steps"
            warnings.warn(f"{text}; the target {self.target:g} is out of reach this way: {remedy}", stacklevel=7)


def loops(target: Target, groups: Mapping[str, int], strength: float) -> dict[str, Loop]:
    """One loop, named "", for a share of the whole model; of a mapping, one for each part that its names or globs mean.

    ``groups`` are the parts and how many groups each has. Raises TrainError: a target outside (0, 1), one that no whole
    number of groups comes within a percentage point of, a name that is no part's, a strength of 0.
    """
    if strength == 0:
        remedy = "start from 0.1, the default"
        raise TrainError("", "strength=0 with a target", "a positive strength to start from", remedy)
    if not isinstance(target, Mapping):
        return {"": Loop(target, tuple(groups), _count(target, sum(groups.values()), ""), strength)}
    wishes = _wishes(target, list(groups))
    return {name: Loop(share, (name,), _count(share, groups[name], name), strength) for name, share in wishes.items()}


def _wishes(target: Mapping[str, float], names: list[str]) -> dict[str, float]:
    """The share of every part that has one."""
    wishes = by_name("target", target, names)
    if not wishes:
        raise TrainError("", "a target for no layer", f"one for some of {', '.join(names)}", "name a layer or a glob")
    return wishes


def _count(target: float, groups: int, where: str) -> int:
    """The whole number of groups nearest to the target; one group at least stays."""
    if not (is_number(target) and 0 < target < 1):
        remedy = "name the share of zero groups, 0.8 for 80%, or leave it out"
        raise TrainError(where, f"target={target!r}", "a target between 0 and 1", remedy)
    count = round(target * groups)
    if not 1 <= count < groups or abs(count / groups - target) > TOLERANCE:
        near = [k / groups for k in (int(target * groups), int(target * groups) + 1) if 1 <= k < groups]
        found = f"target={target!r} of {groups} groups"
        needed = f"a share within {TOLERANCE:.0%} of k / {groups} for a k from 1 to {groups - 1}"
        remedy = f"take {' or '.join(f'{share:.3g}' for share in near)}" if near else "choose smaller blocks"
        raise TrainError(where, found, needed, remedy)
    return count
