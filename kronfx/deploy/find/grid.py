"""The block grid of a weight that nobody says anything about."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce

import numpy as np

from kronfx.deploy.nodes.values import Array
from kronfx.records import KroneckerShape

LARGEST = 128  # side of a block, beyond which nobody prunes
PRICE = 15  # what one more block costs, in entries: a grid must save that much a block to be worth being finer

Block = tuple[int, int]


def grid_of(W: Array, block: tuple[int, int] | None = None) -> KroneckerShape:
    """The grid of ``W [m, n]``: ``block = (m2, n2)`` where it divides ``W``, else the one with the least
    ``surviving blocks * (m2 n2 + 15)``, the coarsest of equals.

    Candidates are the divisors of ``m`` and ``n`` up to 128. A pattern of 32x32 blocks is one of 16x16 and 8x8 blocks
    too: the price of a block tells which was meant, also where single entries are zero by chance, as in 8-bit weights.
    It is the largest at which 4x4 blocks count from half of them zero on.
    Where no grid gains anything, the whole matrix is one block.
    """
    m, n = W.shape
    whole = KroneckerShape(1, 1, m, n)
    if block is not None:
        fits = m % block[0] == 0 and n % block[1] == 0
        return KroneckerShape(m // block[0], n // block[1], *block) if fits else whole
    alive = W != 0
    if alive.all():
        return whole
    best = _cheapest(Pattern(alive))
    return whole if best is None else KroneckerShape(m // best[0], n // best[1], *best)


class Pattern:
    """Which entries of a matrix are not zero, and seen ever more coarsely: the blocks that hold such an entry."""

    def __init__(self, alive: Array) -> None:
        self.dims = alive.shape
        self._seen: dict[Block, Array] = {(1, 1): alive}
        self._counts: dict[Block, int] = {}
        self._last = 0 if alive.flags.f_contiguous else 1  # the axis whose neighbours lie side by side

    def blocks(self, block: Block) -> int:
        """How many blocks of this size are not zero."""
        if block not in self._counts:
            self._counts[block] = int(np.count_nonzero(self._at(block)))
        return self._counts[block]

    def path(self, block: Block) -> Sequence[Block]:
        """From single entries to ``block``, each a few of the one before; the merges that are quickest come first."""
        return _path(block, self._last)

    def _at(self, block: Block) -> Array:
        if block not in self._seen:
            finer = self.path(block)[-2]
            axis = int(block[0] == finer[0])
            self._seen[block] = _merged(self._at(finer), axis, block[axis] // finer[axis])
        return self._seen[block]


def _cheapest(pattern: Pattern) -> Block | None:
    """The block of least price, the coarsest of equals; None where no grid is cheaper than the whole matrix.

    A zero block lies in zeros of every finer grid, so ``alive`` entries in the blocks of that leave at least
    ``alive / (m2 n2)`` blocks of ``m2 x n2``. The large blocks come first: where these cost little, small ones cannot
    win; and where zeros are scattered, the first merges leave no zero block to any of their multiples.
    """
    m, n = pattern.dims
    best, least = None, m * n + PRICE
    candidates = [(m2, n2) for m2 in _divisors(m) for n2 in _divisors(n)]
    for m2, n2 in sorted(candidates, key=lambda block: (block[0] * block[1], block[0]), reverse=True):
        for finer in pattern.path((m2, n2)):
            alive = pattern.blocks(finer) * finer[0] * finer[1]
            price = -(-alive // (m2 * n2)) * (m2 * n2 + PRICE)
            if price >= least:
                break
        else:
            best, least = (m2, n2), price
    return best


@lru_cache(maxsize=2**12)
def _path(block: Block, last: int) -> tuple[Block, ...]:
    if block == (1, 1):
        return (block,)
    axis = last if block[last] > 1 else 1 - last
    finer = list(block)
    finer[axis] //= _largest_prime(finer[axis])
    return (*_path((finer[0], finer[1]), last), block)


def _merged(alive: Array, axis: int, count: int) -> Array:
    """With every ``count`` neighbours along an axis as one, which is alive where any of them is."""
    lines = alive if axis == 0 else alive.T
    if count == 2 and lines.flags.f_contiguous:
        pairs: Array = (lines.T.view(np.uint16) != 0).T
    else:
        pairs = reduce(np.bitwise_or, (lines[i::count] for i in range(count)))
    return pairs if axis == 0 else pairs.T


def _divisors(number: int) -> list[int]:
    return [side for side in range(1, min(number, LARGEST) + 1) if number % side == 0]


def _largest_prime(number: int) -> int:
    divisors = _divisors(number)
    return next(side for side in divisors[::-1] if all(side % smaller for smaller in divisors[1:] if smaller < side))
