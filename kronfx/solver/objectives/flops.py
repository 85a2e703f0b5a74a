"""``flops``: what the forward pass multiplies."""

from __future__ import annotations

from kronfx.records import Rates
from kronfx.solver.objectives.question import MULTIPLY_ADDS, Question

MEANS = "of the best evaluation over ``rows`` rows of ``x``"


def rates(_: Question) -> Rates:
    """One a multiply-add."""
    return MULTIPLY_ADDS
