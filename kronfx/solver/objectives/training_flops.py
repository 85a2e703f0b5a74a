"""``training_flops``: what a training step multiplies."""

from __future__ import annotations

from kronfx.records import Rates
from kronfx.solver import by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking

MEANS = "of the best evaluation over ``rows`` rows of ``x``, its backward pass included"


def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
    """Three a multiply-add: the backward pass is twice the forward one."""
    by_pair.search(grids, by_pair.Priced(asked.rank, asked.rows, Rates(3, 0, 0)), ranking)
