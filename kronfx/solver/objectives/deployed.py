"""``deployed``: what a training step takes, and then a run of the file that comes of it.

A step by itself wants ``W`` to have a low rank as a matrix (blocks of ``m x 1``), and a file wants one block: so only
those shapes count at which ``W`` can have the greatest rank. What that leaves, and how well it predicts files:
``kronfx/decisions/tall_blocks.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from kronfx import price
from kronfx.cost import fastest, step
from kronfx.records import Evaluation, KroneckerShape
from kronfx.solver import by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking

MEANS = (
    "of a training step over ``rows`` rows of ``x``, at ``rates`` of training, and of a run of its file over as many,"
    " one block in ten left; among the shapes at which ``W`` can have the greatest rank as a matrix"
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A step of the best evaluation; the rest is the file's run, which grows with ``m1`` and with ``n1``."""

    asked: Question
    matrix_rank: int

    def of(self, shape: KroneckerShape, taps: int) -> int:
        """Of the evaluation with the shortest step."""
        return self.evaluation(shape, evaluation(self.asked, shape, taps), taps) + self.rest(shape, shape, taps)

    def evaluation(self, shape: KroneckerShape, evaluation: Evaluation, taps: int) -> int:
        """The step."""
        return step(shape, self.asked.rank, self.asked.rows, evaluation, taps).time(self.asked.rates)

    def rest(self, low: KroneckerShape, high: KroneckerShape, taps: int) -> int:
        """The run, at the fewest blocks."""
        return price.expected(low, self.asked.rows, taps) * self.asked.rates.multiply_add

    def admits(self, shape: KroneckerShape) -> bool:
        """Where nothing is lost of what ``W`` can be."""
        return shape.matrix_rank(self.asked.rank) >= self.matrix_rank


def evaluation(asked: Question, shape: KroneckerShape, taps: int) -> Evaluation:
    """The one with the shortest step."""
    return fastest(shape, asked.rank, asked.rows, asked.rates, taps)


def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
    """By pairs ``(m1, n1)``."""
    by_pair.search(grids, Deployed(asked, _greatest(grids, asked.rank)), ranking)


def _greatest(grids: list[Grid], rank: int) -> int:
    """The greatest rank of ``W`` as a matrix that a shape allows; what padding adds is no reason to pad."""
    full = min(min(grid.rows.size, grid.columns.size * grid.taps) for grid in grids)
    found = 0
    for grid in grids:
        for m1, n1 in product(grid.rows.counts, grid.columns.counts):
            found = max(found, grid.shape(m1, n1).matrix_rank(rank))
            if found >= full:
                return full
    return found
