"""How a dense weight ``W [m, n]`` is cut into groups that live or die together: one axis; what is charged is the other.

Every way is a grid of tiles. A convolution's weight counts as unrolled, ``n`` being input channels times taps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kronfx.errors import TrainError
from kronfx.records import KroneckerShape


class Groups(Protocol):
    """A grid of tiles for a weight of any size."""

    def grid(self, label: str, m: int, n: int) -> KroneckerShape:
        """``m1 x n1`` tiles of ``m2 x n2``. Raises TrainError, naming ``label``, where a weight cannot be cut so."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Tiles of ``m2 x n2`` entries, output rows first: the blocks that a factored layer has."""

    m2: int
    n2: int

    def grid(self, label: str, m: int, n: int) -> KroneckerShape:
        """Both sizes must divide."""
        if not all(type(size) is int and size > 0 for size in (self.m2, self.n2)) or m % self.m2 or n % self.n2:
            found = f"blocks of {self.m2}x{self.n2} in a weight of {m}x{n}"
            remedy = "give each layer blocks of its own: groups={'fc1': Blocks(8, 16), 'fc2': Blocks(4, 8)}"
            raise TrainError(label, found, "an m2 that divides m and an n2 that divides n", remedy)
        return KroneckerShape(m // self.m2, n // self.n2, self.m2, self.n2)


@dataclass(frozen=True, slots=True)
class Rows:
    """Whole output rows: neurons, or the filters of a convolution."""

    def grid(self, label: str, m: int, n: int) -> KroneckerShape:
        """``m`` tiles of ``1 x n``."""
        return KroneckerShape(m, 1, 1, n)


@dataclass(frozen=True, slots=True)
class Columns:
    """Whole input columns: features that no output reads any more."""

    def grid(self, label: str, m: int, n: int) -> KroneckerShape:
        """``n`` tiles of ``m x 1``."""
        return KroneckerShape(1, n, m, 1)


@dataclass(frozen=True, slots=True)
class Entries:
    """Every entry by itself: unstructured sparsity."""

    def grid(self, label: str, m: int, n: int) -> KroneckerShape:
        """``m n`` tiles of one entry."""
        return KroneckerShape(m, n, 1, 1)
