"""The integer program: which block shape stores ``W [m, n]`` in the fewest parameters. Plain integers.

``min (1 + r) m1 n1 + r m2 n2  s.t.  m1 m2 = m, n1 n2 = n`` (paper, Eq. 5, at rank ``r``). With ``t = m1 n1``
the objective is ``(1 + r) t + r m n / t``, and ``t`` takes every divisor of ``m n``: of each prime ``p`` it
holds ``p^e``, ``0 <= e <= (exponent of p in m) + (exponent of p in n)``. Branch and bound splits these ranges
of exponents. A node is a box of them, so its ``t`` lie in an interval, where the objective is convex: the
relaxation is solved exactly, in integers. Where its minimum falls on an end of the interval, that end is a
feasible ``t`` and the node is done.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from itertools import product
from math import isqrt, prod

from kronfx.cost import work
from kronfx.errors import SolveError
from kronfx.records import EVALUATIONS, KroneckerShape, Solution


def solve(out_features: int, in_features: int, *, rank: int = 1, rows: int = 512, taps: int = 1) -> Solution:
    """Minimize ``(1 + r) m1 n1 + r m2 n2`` over ``m1 m2 = m = out_features``, ``n1 n2 = n = in_features``.

    Equally small shapes are told apart by the multiply-adds of their best evaluation over ``rows`` rows of
    input, then its largest intermediate, then the squarest block, then the block with the fewest rows. The
    rank is not capped at ``min(m1 n1, m2 n2)``: every rank has an optimum. Source: paper, Eq. 5.

    For a convolution ``in_features`` counts channels and ``taps`` the positions of its kernel, all of which stay in the
    block: its ``n2`` is channels times taps.

    Raises SolveError where an argument is no positive integer.
    """
    arguments = {"out_features": out_features, "in_features": in_features, "rank": rank, "rows": rows, "taps": taps}
    for name, value in arguments.items():
        _require_positive(f"{out_features}x{in_features}", name, value)
    powers_m, powers_n = factorization(out_features), factorization(in_features)
    size = out_features * in_features * taps
    found = _branch_and_bound(_Objective(1 + rank, rank * size), _whole_box(powers_m, powers_n))
    divisors_m = divisors(powers_m)
    shapes = [
        KroneckerShape(m1, t // m1, out_features // m1, in_features * m1 // t * taps)
        for t in found.optima
        for m1 in divisors_m
        if t % m1 == 0 and in_features % (t // m1) == 0
    ]
    return Solution(
        shape=min(shapes, key=lambda shape: _preference(shape, rank, rows, taps)),
        rank=rank,
        objective=found.best,
        lower_bound=found.lower_bound,
        nodes=found.nodes,
        feasible=len(divisors_m) * prod(power + 1 for power in powers_n.values()),
    )


def _require_positive(where: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        remedy = f"pass {name} as an int of at least 1"
        raise SolveError(where, f"{name} is {value!r}", "a positive integer", remedy)


def factorization(number: int) -> dict[int, int]:
    """``{prime: exponent}`` of a positive integer, by trial division."""
    powers: dict[int, int] = {}
    candidate = 2
    while candidate * candidate <= number:
        while number % candidate == 0:
            powers[candidate] = powers.get(candidate, 0) + 1
            number //= candidate
        candidate += 1 + candidate % 2  # 2, 3, 5, 7, 9, ...
    if number > 1:
        powers[number] = powers.get(number, 0) + 1
    return powers


def divisors(powers: dict[int, int]) -> list[int]:
    """All divisors of the number with this factorization, in no particular order."""
    return [prod(parts) for parts in product(*([p**e for e in range(k + 1)] for p, k in powers.items()))]


@dataclass(frozen=True, slots=True)
class _Objective:
    """``a t + c / t`` with ``a = 1 + r`` and ``c = r m n``: convex, least at ``t* = sqrt(c / a)``."""

    a: int
    c: int

    def at(self, t: int) -> int:
        """The value at a divisor ``t`` of ``m n``: an integer, since ``c / t`` is."""
        return self.a * t + self.c // t

    def relax(self, low: int, high: int) -> tuple[int, int | None]:
        """The least value over real ``t`` in ``[low, high]``, rounded up, and the end it falls on, if on one.

        Between the ends it is ``ceil(2 sqrt(a c))``; the value at every divisor is an integer, so rounding up
        loses none.
        """
        if self.beyond(low * low):
            return self.at(low), low
        if not self.beyond(high * high):
            return self.at(high), high
        return isqrt(4 * self.a * self.c - 1) + 1, None

    def beyond(self, square: int) -> bool:
        """Whether ``sqrt(square) >= t*``."""
        return self.a * square >= self.c


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


def _whole_box(powers_m: dict[int, int], powers_n: dict[int, int]) -> _Box:
    primes = sorted({*powers_m, *powers_n}, reverse=True)
    return _Box(1, tuple(_Range(p, 0, powers_m.get(p, 0) + powers_n.get(p, 0)) for p in primes))


@dataclass(slots=True)
class _Found:
    """What the search knows so far; ``lower_bound`` is the least bound of all closed nodes."""

    best: int
    lower_bound: int
    optima: list[int] = field(default_factory=list)
    nodes: int = 0

    def close(self, bound: int, t: int | None) -> None:
        """Close a node at its bound; where ``t`` attains it, ``t`` is a candidate."""
        self.lower_bound = min(self.lower_bound, bound)
        if t is None or bound > self.best:
            return
        if bound < self.best:
            self.best, self.optima = bound, []
        self.optima.append(t)


def _branch_and_bound(objective: _Objective, root: _Box) -> _Found:
    """Every optimal ``t`` of the box, depth first: a node is pruned only if its bound is strictly worse."""
    worst = sum(objective.at(end) for end in root.interval())
    found = _Found(best=worst, lower_bound=worst)
    stack = [root]
    while stack:
        box = stack.pop()
        found.nodes += 1
        low, high = box.interval()
        bound, t = objective.relax(low, high)
        if t is not None or bound > found.best:
            found.close(bound, t)
        else:
            stack.extend(_branch(objective, box, low, high))
    return found


def _branch(objective: _Objective, box: _Box, low: int, high: int) -> Iterable[_Box]:
    """Split the exponents of the largest free prime where ``t*`` lies.

    With that exponent at ``e``, ``t`` lies in ``low p^(e - first.low) .. high p^(e - first.high)``; the split
    falls between the last ``e`` where the geometric middle is short of ``t*`` and the next.
    """
    first = box.free[0]
    middle = low * high // first.prime ** (first.high - first.low)  # squared, at the lowest exponent
    cut = first.low
    while cut < first.high - 1 and not objective.beyond(middle * first.prime ** (2 * (cut + 1 - first.low))):
        cut += 1
    return box.within(first.low, cut), box.within(cut + 1, first.high)


def _preference(shape: KroneckerShape, rank: int, rows: int, taps: int) -> tuple[int, int, Fraction, int, int]:
    """What tells equally small shapes apart, best first (the order of :func:`solve`)."""
    costs = (work(shape, rank, rows, evaluation, taps) for evaluation in EVALUATIONS)
    forward, intermediate = min((cost.forward, cost.intermediate) for cost in costs)
    m2, n2 = shape.block
    return forward, intermediate, Fraction(max(m2, n2), min(m2, n2)), m2, n2
