"""``latency``: what the forward pass takes on a machine that was measured."""

from __future__ import annotations

from kronfx.cost import Price, by_time
from kronfx.solver import by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking

MEANS = "of the best evaluation over ``rows`` rows of ``x``, at the ``rates`` that ``kronfx.calibrate`` measured"


def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
    """By the time at the rates."""
    by_pair.search(grids, by_pair.Priced(asked.rank, asked.rows, asked.rates), ranking)


def price(asked: Question) -> Price:
    """The shortest forward pass at the rates."""
    return by_time(asked.rates)
