"""``x W^T`` through a ``W`` that never lies in memory as a whole: some rows of blocks at a time are formed and used.

Of a large layer, forming ``W`` costs more than it computes: new memory, which the system hands out page by page, and a
copy that turns ``[m1 n1, m2 n2]`` into ``[m, n]``, the same again for its gradient. A piece as large as a cache is
turned in the cache, in memory that the piece before it left. Measured: ``kronfx/decisions/formed.md``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx import kron
from kronfx.cost import REUSED
from kronfx.layers.by_hand import Gradients, Kernel, applied, is_unwatched
from kronfx.layers.factors import Factors
from kronfx.layers.pieces import ByEntries, ByRows
from kronfx.layers.weight import formed_weight
from kronfx.records import KroneckerShape

LARGE = REUSED  # entries of W from which on pieces are faster
PIECE = 2**20  # entries of a piece: 4 MB of float32
LEAST = 256  # rows of a piece at least: a product with fewer spends its time on arranging x
WIDE = 128  # columns of a product by entries at least


def formed(x: Tensor, factors: Factors, bias: Tensor | None = None) -> Tensor:
    """``x [..., n] -> x W^T + bias [..., m]`` with ``W`` formed from its factors, in pieces where that is faster."""
    if is_unwatched(x, factors, bias) and factors.shape.m * factors.shape.n >= LARGE:
        return applied(PIECES, x, factors, bias)
    return F.linear(x, formed_weight(factors), bias)


def _forward(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    shape = kron.shape_of(A, B)
    layout = _layout(shape, len(x))
    E, arranged = layout.entries(B), layout.arranged(x)
    y = x.new_empty(len(x), shape.m)
    grid = y.unflatten(1, (shape.m1, shape.m2))
    for rows in _rows(shape):
        W = layout.formed((S[rows] * A[:, rows]).flatten(1), E)
        layout.multiply(arranged, W, grid[:, rows])
    return y


def _layout(shape: KroneckerShape, rows: int) -> ByRows:
    """By entries where turning ``x`` and ``y`` is less than turning ``W``, and the products stay wide."""
    is_cheaper = rows * (shape.m + shape.n) < shape.m * shape.n
    return ByEntries(shape) if is_cheaper and shape.n1 >= WIDE else ByRows(shape)


def _rows(shape: KroneckerShape) -> Iterator[slice]:
    """The rows of blocks of each piece."""
    count = max(1, max(PIECE // shape.n, LEAST) // shape.m2)
    return (slice(start, min(start + count, shape.m1)) for start in range(0, shape.m1, count))


def _gradients(x: Tensor, S: Tensor, A: Tensor, B: Tensor, dy: Tensor, needed: tuple[bool, ...]) -> Gradients:
    """Of ``x`` where that is needed, and of all factors where one of them is."""
    shape = kron.shape_of(A, B)
    layout = _layout(shape, len(x))
    E, arranged, grid = layout.entries(B), layout.arranged(x), dy.unflatten(1, (shape.m1, shape.m2))
    dx = torch.zeros_like(arranged) if needed[0] else None
    dS, dA, dE = torch.empty_like(S), torch.empty_like(A), torch.zeros_like(E)
    for rows in _rows(shape):
        ours, scales, mixes = layout.ordered(grid[:, rows]), S[rows], A[:, rows]
        C = (scales * mixes).flatten(1)
        if dx is not None:
            dx.baddbmm_(ours.expand(len(dx), -1, -1), layout.formed(C, E))
        if any(needed[1:]):
            products = layout.products(torch.matmul(ours.t(), arranged))
            dE.addmm_(C, products.t())
            mixed = (E @ products).view_as(mixes)
            torch.mul(mixed, scales, out=dA[:, rows])
            torch.sum(mixed.mul_(mixes), 0, out=dS[rows])
    factors = (dS, dA, layout.block(dE)) if any(needed[1:]) else (None, None, None)
    return (None if dx is None else layout.restored(dx), *factors)


PIECES = Kernel(kron.materialized, _forward, _gradients)
