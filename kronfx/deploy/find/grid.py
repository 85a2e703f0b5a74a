"""The block grid of a weight that nobody says anything about."""

from __future__ import annotations

from kronfx.deploy.nodes.values import Array
from kronfx.records import KroneckerShape

LARGEST = 128  # side of a block, beyond which nobody prunes
PRICE = 15  # what one more block costs, in entries: a grid must save that much a block to be worth being finer


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
    best, price = whole, m * n + PRICE
    for m2 in _divisors(m):
        rows = alive.reshape(m // m2, m2, n).any(axis=1)
        for n2 in _divisors(n):
            blocks = int(rows.reshape(m // m2, n // n2, n2).any(axis=2).sum())
            if blocks * (m2 * n2 + PRICE) <= price:
                best, price = KroneckerShape(m // m2, n // n2, m2, n2), blocks * (m2 * n2 + PRICE)
    return best


def _divisors(number: int) -> list[int]:
    return [side for side in range(1, min(number, LARGEST) + 1) if number % side == 0]
