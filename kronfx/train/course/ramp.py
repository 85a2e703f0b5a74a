"""``steps=``: a training of known length freezes its zeros by itself, and a ramp leads to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kronfx.errors import TrainError, warn
from kronfx.train.course.target import Target

START, END = 0.2, 0.7  # shares of the steps: the ramp cuts nothing before the first, nothing after the second
LEAST = 20  # steps of a training: fewer tell too little about a block
JUMP = 2.0  # of the learning rate from one step to the next, past START: warm-ups are over, a cycle begins anew


@dataclass(frozen=True, slots=True)
class Course:
    """``steps`` optimizer steps; after ``share`` of them the zeros are frozen.

    Raises TrainError: no target to reach by then; steps that are no number of optimizer steps, or too few.
    """

    steps: int
    share: float
    target: Target | None

    def __post_init__(self) -> None:
        if self.target is None:
            remedy = "pass target=0.8, say, or leave steps out"
            raise TrainError("", f"steps={self.steps!r} and no target", "the target to be reached by then", remedy)
        if type(self.steps) is not int or self.steps < 1:
            remedy = "pass epochs * len(batches), divided by the batches that are accumulated"
            raise TrainError("", f"steps={self.steps!r}", "the optimizer steps of the whole training", remedy)
        if self.steps < LEAST:
            found = f"steps={self.steps}, which end before the target can be reached"
            remedy = "train longer, or leave steps out and call freeze() yourself"
            raise TrainError("", found, f"{LEAST} steps at least", remedy)

    @property
    def end(self) -> int:
        """The optimizer step after which the zeros are frozen."""
        return round(self.share * self.steps)


@dataclass(frozen=True, slots=True)
class Ramp(Course):
    """``share(t) = target (1 - (1 - u)^3)``, ``u`` from 0 at a fifth of the steps to 1 at the end: the cubic of Zhu and
    Gupta (arXiv 1710.01878)."""

    def count(self, final: int, step: int) -> int:
        """How many of ``final`` groups are zero once ``step`` optimizer steps were taken."""
        start = START * self.steps
        u = min(1.0, max(0.0, (step - start) / (self.end - start)))
        return final if step >= self.end else int(final * (1 - (1 - u) ** 3))


class Watch:
    """Says, once, what a course does not expect: a learning rate that restarts, steps past its end."""

    def __init__(self, course: Course) -> None:
        self._course, self._rates, self._warned = course, list[float](), False

    def step(self, step: int, rates: Sequence[float]) -> None:
        """After ``step`` optimizer steps, the last at these learning rates."""
        jumps = [(old, new) for old, new in zip(self._rates, rates) if new > JUMP * old]
        self._rates = list(rates)
        if self._warned or step <= START * self._course.steps:
            return
        steps, end = self._course.steps, self._course.end
        if step > steps:
            found = f"step {step:,} of a training of steps={steps:,}"
        elif jumps:
            found = f"a learning rate that restarts, from {jumps[0][0]:.3g} to {jumps[0][1]:.3g} at step {step:,}"
        else:
            return
        self._warned = True
        remedy = "pass the steps of the whole training, along one cycle of the learning rate"
        warn(f"train: {found}: blocks are chosen once, by step {end:,}, and stay; {remedy}")
