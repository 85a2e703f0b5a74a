"""``latency``: what the forward pass takes on a machine that was measured."""

from __future__ import annotations

from kronfx.records import Rates
from kronfx.solver.objectives.question import Question

MEANS = "of the best evaluation over ``rows`` rows of ``x``, at the ``rates`` that ``kronfx.calibrate`` measured"


def rates(asked: Question) -> Rates:
    """The machine's."""
    return asked.rates
