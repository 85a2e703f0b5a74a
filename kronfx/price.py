"""What a linear map costs in a runtime, in multiply-adds of a large dense product that take as long (float32).

Plain integers, no torch: the exporter asks where nothing is timed, the solver where nothing is trained yet. Read off
onnxruntime on 2 cores: ``kronfx/decisions/price.md``; of block shapes: ``kronfx/decisions/tall_blocks.md``.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

from kronfx.records import KroneckerShape

ENTRY = 20  # an entry of an activation that is read and written once
WEIGHT = 12  # a weight that is read once
NODE = 200_000  # any node
TRANSPOSED = 30  # an entry of an activation that changes its layout
SMALL = Fraction(13, 10)  # a multiply-add in small products, of large ones
ALIVE = 10  # one block in ten, of a pattern that is not known yet


def dense(m: int, n: int, rows: int) -> int:
    """``m n (N + 12)`` and a node."""
    return m * n * (rows + WEIGHT) + NODE


def blocks(shape: KroneckerShape, rows: int, weights: int, gathered: int, buckets: int) -> int:
    """``weights`` that multiply ``gathered`` entries a row; what is sorted and changes its layout; three nodes a bucket
    and six more."""
    moved = ENTRY * (gathered + 2 * shape.m) + TRANSPOSED * (shape.m + shape.n)
    return int(weights * (SMALL * rows + WEIGHT)) + rows * moved + (3 * buckets + 6) * NODE


def gain(shape: KroneckerShape, rows: int, taps: int = 1) -> float:
    """How many times as fast as dense :func:`expected` is."""
    return dense(shape.m, shape.n, rows) / expected(shape, rows, taps)


def expected(shape: KroneckerShape, rows: int, taps: int = 1) -> int:
    """Of a pattern of which one block in ten is left, in the cheaper way: ``blocks``, or ``dense``.

    A block row gathers ``n / 10`` entries for ``m2`` outputs, ``m1 n / 10`` in all: the taller the blocks, the fewer.
    The numbers of survivors in a row spread over about ``sqrt(n1)``, each a bucket. So it grows with ``m1`` and with
    ``n1``. Kernels of several taps run dense.
    """
    whole = dense(shape.m, shape.n, rows)
    if taps > 1:
        return whole
    weights, gathered = shape.m * shape.n // ALIVE, shape.m1 * shape.n // ALIVE
    return min(whole, blocks(shape, rows, weights, gathered, min(shape.m1, 1 + isqrt(shape.n1))))
