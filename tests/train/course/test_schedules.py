"""Schedules: their values at every step against a table worked out by hand."""

from __future__ import annotations

import math
import pickle

import pytest

from kronfx.errors import TrainError
from kronfx.train import Constant, Cosine, Linear, Stepped
from kronfx.train.course.schedules import Schedule, as_schedule, value_at

TABLE: list[tuple[Schedule, list[float]]] = [
    (Constant(0.3), [0.3] * 6),
    (Stepped(0.01, add=0.002, every=2), [0.01, 0.01, 0.012, 0.012, 0.014, 0.014]),
    (Stepped(0.0, add=0.25, every=1, end=0.6), [0.0, 0.25, 0.5, 0.6, 0.6, 0.6]),
    (Linear(1.0, 3.0, over=4), [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]),
    (Cosine(2.0, 0.0, over=4), [2.0, 1 + math.sqrt(0.5), 1.0, 1 - math.sqrt(0.5), 0.0, 0.0]),
]


@pytest.mark.parametrize(("schedule", "values"), TABLE)
def test_a_schedule_has_these_values(schedule: Schedule, values: list[float]) -> None:
    assert [schedule(step) for step in range(6)] == pytest.approx(values, abs=1e-15)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


def test_the_papers_schedule_is_one_line() -> None:
    """0.01, and 0.002 more every 5 epochs, over 50 epochs of 469 steps."""
    schedule = Stepped(0.01, add=0.002, every=5 * 469)
    epochs = [schedule(epoch * 469) for epoch in range(50)]
    assert epochs[:5] == [0.01] * 5
    assert epochs[5] == pytest.approx(0.012)
    assert epochs[49] == pytest.approx(0.01 + 9 * 0.002)


def test_a_number_is_a_constant_and_a_function_is_itself() -> None:
    assert as_schedule("strength", 2) == Constant(2.0)
    assert value_at("strength", as_schedule("strength", lambda step: step / 4), 3) == 0.75


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_what_is_no_schedule_is_refused(value: object) -> None:
    with pytest.raises(TrainError, match="needed a number or a function from step to number"):
        as_schedule("strength", value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_value_that_is_none_is_refused_with_its_step(value: float) -> None:
    with pytest.raises(TrainError, match=f"strength={value}; needed a finite strength of 0 or more"):
        as_schedule("strength", value)
    schedule = as_schedule("strength", lambda step: value if step == 7 else 0.0)
    with pytest.raises(TrainError, match=f"strength is {value} at step 7"):
        value_at("strength", schedule, 7)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_a_period_that_is_no_number_of_steps_is_refused(steps: int) -> None:
    for build in (lambda: Stepped(0, 1, every=steps), lambda: Linear(0, 1, over=steps), lambda: Cosine(0, 1, steps)):
        with pytest.raises(TrainError, match="needed a number of optimizer steps, 1 or more"):
            build()


def test_a_schedule_of_what_is_no_number_is_refused() -> None:
    for build in (lambda: Constant("x"), lambda: Stepped("0.1", 0.1, 5), lambda: Linear(0, None, 5)):
        with pytest.raises(TrainError, match="; needed a number; pass 0.1"):
            build()
    with pytest.raises(TrainError, match="strength is None at step 0; needed a finite strength of 0 or more"):
        as_schedule("strength", lambda _: None)
