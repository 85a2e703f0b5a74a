"""What a search knows so far: the best values, the shapes that have them, and the bounds it closed nodes at."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from math import inf, isqrt

from kronfx.records import KroneckerShape


@dataclass(frozen=True, slots=True)
class Convex:
    """``a t + c / t``: convex, least at ``t* = sqrt(c / a)``."""

    a: int
    c: int

    def at(self, t: int) -> int:
        """The value at ``t``, rounded up: exact where ``t`` divides ``c``."""
        return self.a * t - -self.c // t

    def least(self, low: int, high: int) -> int:
        """No integer value on ``[low, high]`` is less: the least value over real ``t``, rounded up.

        Between the ends it is ``ceil(2 sqrt(a c))``.
        """
        if self.beyond(low * low):
            return self.at(low)
        if not self.beyond(high * high):
            return self.at(high)
        return isqrt(4 * self.a * self.c - 1) + 1

    def beyond(self, square: int) -> bool:
        """Whether ``sqrt(square) >= t*``."""
        return self.a * square >= self.c


@dataclass(slots=True)
class Ranking:
    """The ``keep`` best values and every shape that has one of them; ``lower_bound`` is the least bound of all closed
    nodes, ``nodes`` how many were visited."""

    keep: int
    shapes: list[tuple[int, KroneckerShape]] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    lower_bound: float = inf
    nodes: int = 0

    @property
    def worst(self) -> float:
        """A node whose bound is above this holds nothing that counts."""
        return self.values[-1] if len(self.values) == self.keep else inf

    def offer(self, value: int, shape: KroneckerShape) -> None:
        """A feasible shape."""
        if value > self.worst:
            return
        self.shapes.append((value, shape))
        insort(self.values, value)
        del self.values[self.keep :]

    def close(self, bound: float) -> None:
        """A node that is done with: nothing in it is better than its bound."""
        self.lower_bound = min(self.lower_bound, bound)

    def best(self) -> list[tuple[int, KroneckerShape]]:
        """Every shape whose value counts, in no particular order."""
        return [(value, shape) for value, shape in self.shapes if value <= self.worst]
