"""The feasible set: every grid of blocks that the constraints allow, over every padded size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from kronfx.records import KroneckerShape
from kronfx.solver.primes import divisors, factorization


@dataclass(frozen=True, slots=True)
class Side:
    """What a block may measure along one dimension."""

    fixed: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    multiple_of: int | None = None

    def allows(self, size: int) -> bool:
        """Whether a block may be this long."""
        return (
            (self.fixed is None or size == self.fixed)
            and (self.minimum is None or size >= self.minimum)
            and (self.maximum is None or size <= self.maximum)
            and (self.multiple_of is None or size % self.multiple_of == 0)
        )

    def __str__(self) -> str:
        wishes = (
            ("", self.fixed), ("at least ", self.minimum), ("at most ", self.maximum),
            ("a multiple of ", self.multiple_of),
        )  # fmt: skip
        return " and ".join(f"{words}{value}" for words, value in wishes if value is not None)


@dataclass(frozen=True, slots=True)
class Cut:
    """A dimension of this (padded) size, and the numbers of blocks it may be cut into, ascending."""

    size: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One padded size of ``W``: every pair ``(m1, n1)`` of the two sides' counts is feasible."""

    rows: Cut
    columns: Cut
    taps: int

    def shape(self, m1: int, n1: int) -> KroneckerShape:
        """The shape with ``m1 x n1`` blocks."""
        return KroneckerShape(m1, n1, self.rows.size // m1, self.columns.size // n1 * self.taps)

    @property
    def entries(self) -> int:
        """``m n``."""
        return self.rows.size * self.columns.size * self.taps

    @property
    def interval(self) -> tuple[int, int]:
        """The least and the greatest ``m1 n1``."""
        return self.rows.counts[0] * self.columns.counts[0], self.rows.counts[-1] * self.columns.counts[-1]

    def __len__(self) -> int:
        return len(self.rows.counts) * len(self.columns.counts)


def cuts(size: int, side: Side, padding: float) -> list[Cut]:
    """The dimension at its own size and padded by at most the share ``padding``, where it has a cut at all.

    The surplus is less than one block: with a whole block of it, one block less would do.
    """
    found = []
    for padded in range(size, int(size * (1 + Fraction(padding))) + 1):
        counts = [
            d for d in divisors(factorization(padded)) if padded // d > padded - size and side.allows(padded // d)
        ]
        if counts:
            found.append(Cut(padded, tuple(sorted(counts))))
    return found


def grids(rows: list[Cut], columns: list[Cut], taps: int) -> list[Grid]:
    """Every padded size, smallest first."""
    return sorted((Grid(r, c, taps) for r, c in product(rows, columns)), key=lambda grid: grid.entries)


def contradiction(side: Side) -> bool:
    """Whether no block of any size meets the constraints."""
    unit = side.multiple_of or 1
    least = -(-(side.minimum or 1) // unit) * unit
    if side.fixed is not None:
        return not side.allows(side.fixed)
    return side.maximum is not None and least > side.maximum
