"""``params``: what the factors store."""

from __future__ import annotations

from kronfx.cost import cheapest
from kronfx.records import Evaluation, KroneckerShape
from kronfx.solver import by_product
from kronfx.solver.grids import Grid
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking

MEANS = "``(1 + r) m1 n1 + r m2 n2`` (paper, Eq. 5)"


def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
    """By ``t = m1 n1``, all that the parameters see."""
    by_product.search(grids, asked.rank, ranking)


def evaluation(asked: Question, shape: KroneckerShape, taps: int) -> Evaluation:
    """The one with the fewest multiply-adds."""
    return cheapest(shape, asked.rank, asked.rows, taps)
