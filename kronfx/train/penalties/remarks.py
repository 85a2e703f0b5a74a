"""What a training is told once for each layer: an empty one, one at its floor, one that rounding holds still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kronfx.errors import warn
from kronfx.train.course.target import Goal
from kronfx.train.parts.part import Part


class Remarks:
    """Warnings about the parts of a penalty."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self._parts, self._empty, self._low = parts, set[str](), set[str]()

    def empty(self, name: str) -> None:
        """All groups of a part are zero."""
        if name not in self._empty:
            self._empty.add(name)
            text = f"train: {self._parts[name].label}: all of its groups are zero, its output is its bias"
            warn(f"{text}; lower the strength, or give it a target of its own")

    def low(self, goal: Goal, bound: Sequence[bool]) -> None:
        """Of the parts of a goal, those whose floor stood in the way."""
        for name, floor, at_floor in zip(goal.names, goal.floors, bound):
            if at_floor and len(goal.names) > 1 and name not in self._low:
                self._low.add(name)
                part = self._parts[name]
                text = f"train: {part.label}: {floor} of its {part.groups} groups stay, whatever they are worth"
                remedy = f"give it a target of its own to go further than the whole model's {goal.target:g}"
                warn(f"{text}, and other layers give the rest; {remedy}")

    def coarse(self, rates: Sequence[float]) -> None:
        """What shrinking loses to rounding is carried on; what the optimizer loses is not ours to carry."""
        for part, rate in zip(self._parts.values(), rates):
            least = part.carry.least_step(part.parameter)
            if rate < least:
                dtype = str(part.parameter.dtype).removeprefix("torch.")
                text = f"train: {part.label}: what it shrinks is {dtype} and holds no steps below {least:.2g}"
                remedy = "keep parameters in float32 under torch.autocast, or give BlockSparsity steps= and a target"
                warn(f"{text}; most of the optimizer's, of about {rate:.2g}, are rounded away; {remedy}")
