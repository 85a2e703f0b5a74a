"""Branch and bound over ``t = m1 n1``, which is all that the number of parameters sees.

``t`` takes every divisor of ``m n``: of each prime ``p`` it holds ``p^e``, ``0 <= e <= (exponent of p in m) +
(exponent of p in n)``. A node is a box of exponents, so its ``t`` lie in an interval, where ``(1 + r) t + r m n / t``
is convex: the relaxation is solved exactly, in integers. A box with one free prime left is solved at once: along the
powers of one prime the objective is convex too, so they are taken from the best one outwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

from kronfx.solver.grids import Grid
from kronfx.solver.primes import factorization
from kronfx.solver.ranking import Convex, Ranking


@dataclass(frozen=True, slots=True)
class _Range:
    """Exponents ``low .. high`` of one prime."""

    prime: int
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class _Box:
    """A node: ranges of exponents of the primes still free, largest first, times what is fixed already."""

    fixed: int
    free: tuple[_Range, ...]

    def interval(self) -> tuple[int, int]:
        """The least and the greatest ``t`` in the box."""
        low = reduce(lambda t, r: t * r.prime**r.low, self.free, self.fixed)
        return low, reduce(lambda t, r: t * r.prime ** (r.high - r.low), self.free, low)

    def within(self, low: int, high: int) -> _Box:
        """The same box with the first free prime held to ``low .. high``; a single exponent is fixed."""
        first, *rest = self.free
        if low == high:
            return _Box(self.fixed * first.prime**low, tuple(rest))
        return _Box(self.fixed, (_Range(first.prime, low, high), *rest))

    def points(self) -> list[int]:
        """Every ``t`` of a box with at most one free prime."""
        if not self.free:
            return [self.fixed]
        (only,) = self.free
        return [self.fixed * only.prime**e for e in range(only.low, only.high + 1)]


def search(grids: list[Grid], rank: int, ranking: Ranking) -> None:
    """Rank the shapes of all grids by ``(1 + r) m1 n1 + r m2 n2``."""
    for grid in grids:  # smallest first, so that their relaxations come in ascending order where nothing is constrained
        objective = Convex(1 + rank, rank * grid.entries)
        bound = objective.least(*grid.interval)
        if bound > ranking.worst:
            ranking.close(bound)
        else:
            _search(grid, objective, ranking)


def _search(grid: Grid, objective: Convex, ranking: Ranking) -> None:
    """Depth first; a node is pruned only if its bound is worse than every value that counts."""
    least, greatest = grid.interval
    stack = [_whole_box(grid)]
    while stack:
        box = stack.pop()
        ranking.nodes += 1
        low, high = box.interval()
        low_feasible, high_feasible = max(low, least), min(high, greatest)
        if low_feasible > high_feasible:
            continue
        bound = objective.least(low_feasible, high_feasible)
        if bound > ranking.worst:
            ranking.close(bound)
        elif len(box.free) <= 1:
            _take(box, grid, objective, ranking)
        else:
            stack.extend(_branch(objective, box, low, high))


def _whole_box(grid: Grid) -> _Box:
    powers_m, powers_n = factorization(grid.rows.size), factorization(grid.columns.size)
    primes = sorted({*powers_m, *powers_n}, reverse=True)
    return _Box(1, tuple(_Range(p, 0, powers_m.get(p, 0) + powers_n.get(p, 0)) for p in primes))


def _branch(objective: Convex, box: _Box, low: int, high: int) -> Iterable[_Box]:
    """Split the exponents of the largest free prime where ``t*`` lies; the half with the lower bound comes last.

    With that exponent at ``e``, ``t`` lies in ``low p^(e - first.low) .. high p^(e - first.high)``; the split
    falls between the last ``e`` where the geometric middle is short of ``t*`` and the next.
    """
    first = box.free[0]
    middle = low * high // first.prime ** (first.high - first.low)  # squared, at the lowest exponent
    cut = first.low
    while cut < first.high - 1 and not objective.beyond(middle * first.prime ** (2 * (cut + 1 - first.low))):
        cut += 1
    halves = box.within(first.low, cut), box.within(cut + 1, first.high)
    return sorted(halves, key=lambda half: objective.least(*half.interval()), reverse=True)


def _take(box: _Box, grid: Grid, objective: Convex, ranking: Ranking) -> None:
    """Offer the points of a box with at most one free prime, best first, and close it."""
    bound: float | None = None
    for value, t in sorted((objective.at(t), t) for t in box.points()):
        if value > ranking.worst:
            break
        for m1, n1 in _pairs(t, grid):
            ranking.offer(value, grid.shape(m1, n1))
            bound = value if bound is None else bound
    if bound is not None:
        ranking.close(bound)


def _pairs(t: int, grid: Grid) -> Iterator[tuple[int, int]]:
    counts = set(grid.columns.counts)
    for m1 in grid.rows.counts:
        if t % m1 == 0 and t // m1 in counts:
            yield m1, t // m1
