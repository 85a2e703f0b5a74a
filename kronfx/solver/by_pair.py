"""Branch and bound over pairs ``(m1, n1)``, best first, for what sees both: multiply-adds and time.

A node is a box in the ascending lists of both counts. What ``a_first`` does to activations grows with ``m1`` and
shrinks with ``n1``, ``b_first`` the other way round, and ``materialize`` does the same everywhere: each is least in a
corner of the box. What is left, the same for all three, has a least value of its own. The sum of both minima bounds the
box. The corner of the least evaluation is then looked at itself, and the rest of the box becomes two boxes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Protocol

from kronfx.cost import work
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape, Rates
from kronfx.solver.grids import Grid
from kronfx.solver.ranking import Convex, Ranking


class Price(Protocol):
    """What the search has to know of what it minimizes."""

    def of(self, shape: KroneckerShape, taps: int) -> int:
        """Exactly: the least of its evaluations, and the rest."""

    def evaluation(self, shape: KroneckerShape, evaluation: Evaluation, taps: int) -> int:
        """Of one evaluation, without the rest: least in that evaluation's own corner of a box."""

    def rest(self, low: KroneckerShape, high: KroneckerShape, taps: int) -> int:
        """No shape with ``m1`` and ``n1`` from those of ``low`` to those of ``high`` has less of the rest."""

    def admits(self, shape: KroneckerShape) -> bool:
        """Whether the shape may be the answer."""


@dataclass(frozen=True, slots=True)
class WorkPrice:
    """Of the forward pass; the rest is the weights' own traffic, convex in ``t = m1 n1``."""

    rank: int
    rows: int
    rates: Rates

    def of(self, shape: KroneckerShape, taps: int) -> int:
        """Products and traffic of the best evaluation."""
        return min(work(shape, self.rank, self.rows, e, taps).time(self.rates) for e in EVALUATIONS)

    def evaluation(self, shape: KroneckerShape, evaluation: Evaluation, taps: int) -> int:
        """The weights' traffic left out."""
        counted = work(shape, self.rank, self.rows, evaluation, taps)
        return self.rates.time(counted.forward, counted.activations, 2)

    def rest(self, low: KroneckerShape, high: KroneckerShape, taps: int) -> int:
        """Over all real ``t`` between both."""
        traffic = Convex(self.rates.entry * self.rank, self.rates.entry * self.rank * low.m * low.n)
        return traffic.least(low.blocks, high.blocks)

    def admits(self, shape: KroneckerShape) -> bool:
        """Every shape."""
        return True


@dataclass(frozen=True, slots=True, order=True)
class _Node:
    """Indices ``top .. bottom`` of the counts of rows, ``left .. right`` of those of columns, of grid ``grid``."""

    bound: int
    grid: int
    top: int
    bottom: int
    left: int
    right: int
    corner: tuple[int, int]  # of the evaluation that attains the bound


def search(grids: list[Grid], price: Price, ranking: Ranking) -> None:
    """Rank the shapes of all grids that the price admits."""
    heap = [_node(g, grid, price, 0, len(grid.rows.counts) - 1, 0, len(grid.columns.counts) - 1)
            for g, grid in enumerate(grids)]  # fmt: skip
    heapify(heap)
    while heap:
        node = heappop(heap)
        if node.bound > ranking.worst:
            ranking.close(node.bound)
            return
        ranking.nodes += 1
        grid = grids[node.grid]
        row, column = node.corner
        shape = grid.shape(grid.rows.counts[row], grid.columns.counts[column])
        if price.admits(shape):
            value = price.of(shape, grid.taps)
            ranking.offer(value, shape)
            ranking.close(value)
        for box in _rest(node, row, column):
            heappush(heap, _node(node.grid, grid, price, *box))


def _node(number: int, grid: Grid, price: Price, top: int, bottom: int, left: int, right: int) -> _Node:
    rows, columns = grid.rows.counts, grid.columns.counts
    corners: dict[Evaluation, tuple[int, int]] = {
        "a_first": (top, right),
        "b_first": (bottom, left),
        "materialize": (top, left),
    }
    least, corner = min(
        (price.evaluation(grid.shape(rows[i], columns[j]), evaluation, grid.taps), (i, j))
        for evaluation, (i, j) in corners.items()
    )
    low, high = grid.shape(rows[top], columns[left]), grid.shape(rows[bottom], columns[right])
    return _Node(
        bound=least + price.rest(low, high, grid.taps),
        grid=number,
        top=top,
        bottom=bottom,
        left=left,
        right=right,
        corner=corner,
    )


def _rest(node: _Node, row: int, column: int) -> Iterator[tuple[int, int, int, int]]:
    """The box without its corner: the rows beside it, and what is left of its own row."""
    top, bottom, left, right = node.top, node.bottom, node.left, node.right
    if top < bottom:
        yield (top + 1, bottom, left, right) if row == top else (top, bottom - 1, left, right)
    if left < right:
        yield (row, row, left + 1, right) if column == left else (row, row, left, right - 1)
