"""``flops``: what the forward pass multiplies."""

from __future__ import annotations

from kronfx.solver import by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives.question import MULTIPLY_ADDS, Question
from kronfx.solver.ranking import Ranking

MEANS = "of the best evaluation over ``rows`` rows of ``x``"


def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
    """One a multiply-add."""
    by_pair.search(grids, by_pair.Priced(asked.rank, asked.rows, MULTIPLY_ADDS), ranking)
