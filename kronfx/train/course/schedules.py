"""How strong a penalty is at each step: a number, or a schedule, which is any function ``step -> value``.

``step`` counts the optimizer's steps from 0. The paper's "0.01, and 0.002 more every 5 epochs" is
``Stepped(0.01, add=0.002, every=5 * len(batches))``. Schedules are frozen values: print them, compare them, pickle
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kronfx.errors import TrainError
from kronfx.train.options import is_number

Schedule = Callable[[int], float]  # optimizer steps taken so far -> value


@dataclass(frozen=True, slots=True)
class Constant:
    """``value``, at every step. Raises TrainError where it is no number."""

    value: float

    def __post_init__(self) -> None:
        _require_numbers(value=self.value)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.value


@dataclass(frozen=True, slots=True)
class Stepped:
    """``start + add * floor(step / every)``, up to ``end``. Raises TrainError where ``every`` is below 1 or
    another is no number."""

    start: float
    add: float
    every: int
    end: float = math.inf

    def __post_init__(self) -> None:
        _require_steps("every", self.every)
        _require_numbers(start=self.start, add=self.add, end=self.end)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return min(self.start + self.add * (step // self.every), self.end)


@dataclass(frozen=True, slots=True)
class Linear:
    """From ``start`` to ``end`` in equal increments over ``over`` steps, then ``end``. Raises TrainError where ``over``
    is below 1 or another is no number."""

    start: float
    end: float
    over: int

    def __post_init__(self) -> None:
        _require_steps("over", self.over)
        _require_numbers(start=self.start, end=self.end)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.start + (self.end - self.start) * min(1.0, step / self.over)


@dataclass(frozen=True, slots=True)
class Cosine:
    """From ``start`` to ``end`` along half a cosine, flat at both ends, over ``over`` steps, then ``end``. Raises
    TrainError where ``over`` is below 1 or another is no number."""

    start: float
    end: float
    over: int

    def __post_init__(self) -> None:
        _require_steps("over", self.over)
        _require_numbers(start=self.start, end=self.end)

    def __call__(self, step: int) -> float:
        """The value at a step."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * min(1.0, step / self.over))) / 2


def as_schedule(what: str, value: float | Schedule) -> Schedule:
    """A schedule as it is, a number as a constant; ``what`` is its name in errors. Raises TrainError on anything else,
    and on a first value that is negative or not finite."""
    if not (callable(value) or is_number(value)):
        raise TrainError("", f"{what}={value!r}", "a number or a function from step to number", "pass 0.1, say")
    schedule = value if callable(value) else Constant(float(value))
    value_at(what, schedule, 0)
    return schedule


def value_at(what: str, schedule: Schedule, step: int) -> float:
    """The schedule's value. Raises TrainError where it is no number, negative or not finite."""
    answer = schedule(step)
    try:
        value = float(answer)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        text = f"{what}={answer}" if isinstance(schedule, Constant) else f"{what} is {answer!r} at step {step}"
        raise TrainError("", text, f"a finite {what} of 0 or more", "pass 0.1, say, or a schedule that stays so")
    return value


def _require_numbers(**values: object) -> None:
    for name, value in values.items():
        if not is_number(value):
            raise TrainError("", f"{name}={value!r}", "a number", "pass 0.1, say")


def _require_steps(name: str, value: int) -> None:
    if type(value) is not int or value < 1:
        raise TrainError("", f"{name}={value!r}", "a number of optimizer steps, 1 or more", "epochs times len(batches)")
