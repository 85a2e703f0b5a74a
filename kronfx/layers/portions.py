"""``a_first`` and ``b_first`` by hand: a few rows of ``x`` at a time, such that what lies between both products stays
in the cache, and turned, such that both products are large.

Of ``N`` rows ``x`` lies as ``[n1, N n2]`` and ``y`` as ``[m1, N m2]``. Then mixing blocks is one product with
``C [r m1, n1]``, where rows as they come take ``N`` small ones; so are the gradients of ``C`` and of ``x``. What lies
between the products, ``r m1 n2`` entries a row (``r n1 m2``), is formed again in the backward pass: it is not kept, and
never moved. Measured: ``kronfx/decisions/portions.md``.

The gradient of ``x`` under ``a_first`` is ``b_first`` with every factor transposed, and the other way round, so the two
share what is written here: ``mixed [r, m1 N, n2]``, the mixtures ``C_i x``, and ``spread [r, m1 N, n2]``, which is
``dy B_i``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kronfx import kron
from kronfx.cost import REUSED, work
from kronfx.layers.by_hand import Gradients, Kernel, is_unwatched
from kronfx.layers.factors import Factors
from kronfx.records import Evaluation

LARGE = REUSED  # entries between the two products from which on portions are faster
PORTION = 2**19  # entries of a portion: 2 MB of float32
LEAST = 32  # rows of a portion at least
NARROW, SMALL = 8, 256  # columns of torch's products a row, and entries of a block, up to which those cost more


def is_worth_turning(x: Tensor, factors: Factors, evaluation: Evaluation) -> bool:
    """Whether these rows are better multiplied by hand, and may be: where less lies between the products, autograd
    keeps it in memory that is there already. Where nothing is trained there is nothing to keep, but torch takes a
    product a row then, of ``n2`` columns (``m2``), and of few they are slow."""
    if not is_unwatched(x, factors, None):  # first: to a tracer sizes are tensors
        return False
    is_trained = torch.is_grad_enabled() and (factors.S.requires_grad or factors.A.requires_grad)
    m2, n2 = factors.shape.block
    if not is_trained and (n2 if evaluation == "a_first" else m2) <= NARROW and m2 * n2 <= SMALL:
        return True
    return work(factors.shape, factors.rank, x.shape[:-1].numel(), evaluation).intermediate >= LARGE


def _portions(rows: int, entries: int) -> Iterator[slice]:
    """Slices of the rows, of so many entries a row."""
    count = max(LEAST, PORTION // entries)
    return (slice(start, min(start + count, rows)) for start in range(0, rows, count))


def _turned(x: Tensor, blocks: int) -> Tensor:
    """``x [N, b k]`` as ``[b, N k]``."""
    turned: Tensor = x.unflatten(1, (blocks, -1)).transpose(0, 1).contiguous()
    return turned.flatten(1)


def _mixed(C: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """``C_i x`` as ``[r, m1 N, n2]`` of ``C [r m1, n1]`` and ``x [n1, N n2]``."""
    return (C @ x).view(len(B), -1, B.shape[-1])


def _spread(dy: Tensor, B: Tensor) -> Tensor:
    """``dy B_i`` as ``[r, m1 N, n2]`` of ``dy [m1, N m2]``."""
    return torch.matmul(dy.view(-1, B.shape[-2]), B)


def _collected(mixed: Tensor, B: Tensor) -> Tensor:
    """``sum_i mixed_i B_i^T [m1 N, m2]``."""
    y = mixed[0] @ B[0].t()
    for mixed_i, B_i in zip(mixed[1:], B[1:]):
        y.addmm_(mixed_i, B_i.t())
    return y


def _gathered(C: Tensor, spread: Tensor) -> Tensor:
    """``sum_i C_i^T spread_i [n1, N n2]``."""
    return C.t() @ spread.view(len(C), -1)


def _put(place: Tensor, turned: Tensor, blocks: int) -> None:
    """Write ``[b, N k]`` into ``place [N, b k]``."""
    place.unflatten(1, (blocks, -1)).copy_(turned.view(blocks, len(place), -1).transpose(0, 1))


def _add(dC: Tensor, dB: Tensor, mixed: Tensor, spread: Tensor, x: Tensor, dy: Tensor) -> None:
    """Add what this portion says of ``C [r m1, n1]`` and ``B [r, m2, n2]``."""
    dC.addmm_(spread.view(len(dC), -1), x.t())
    dB.baddbmm_(dy.view(-1, dB.shape[-2]).t().expand(len(dB), -1, -1), mixed)


def _a_forward(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    shape, C = kron.shape_of(A, B), (S * A).flatten(0, 1)
    y = x.new_empty(len(x), shape.m)
    for rows in _portions(len(x), len(C) * shape.n2):
        _put(y[rows], _collected(_mixed(C, _turned(x[rows], shape.n1), B), B), shape.m1)
    return y


def _b_forward(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    shape, C, turned_B = kron.shape_of(A, B), (S * A).mT.flatten(0, 1), B.mT
    y = x.new_empty(len(x), shape.m)
    for rows in _portions(len(x), len(C) * shape.m2):
        _put(y[rows], _gathered(C, _spread(_turned(x[rows], shape.n1), turned_B)), shape.m1)
    return y


def _a_gradients(x: Tensor, S: Tensor, A: Tensor, B: Tensor, dy: Tensor, needed: tuple[bool, ...]) -> Gradients:
    shape, C = kron.shape_of(A, B), (S * A).flatten(0, 1)
    dx, dC, dB = torch.empty_like(x), torch.zeros_like(C), torch.zeros_like(B)
    for rows in _portions(len(x), len(C) * shape.n2):
        ours, theirs = _turned(x[rows], shape.n1), _turned(dy[rows], shape.m1)
        spread = _spread(theirs, B)
        if any(needed[1:]):
            _add(dC, dB, _mixed(C, ours, B), spread, ours, theirs)
        if needed[0]:
            _put(dx[rows], _gathered(C, spread), shape.n1)
    return _needed(needed, dx, S, A, dC.view_as(A), dB)


def _b_gradients(x: Tensor, S: Tensor, A: Tensor, B: Tensor, dy: Tensor, needed: tuple[bool, ...]) -> Gradients:
    shape, C, turned_B = kron.shape_of(A, B), (S * A).mT.flatten(0, 1), B.mT
    dx, dC, dB = torch.empty_like(x), torch.zeros_like(C), torch.zeros_like(B)
    for rows in _portions(len(x), len(C) * shape.m2):
        ours, theirs = _turned(x[rows], shape.n1), _turned(dy[rows], shape.m1)
        mixed = _mixed(C, theirs, turned_B)
        if any(needed[1:]):
            _add(dC, dB.mT, mixed, _spread(ours, turned_B), theirs, ours)
        if needed[0]:
            _put(dx[rows], _collected(mixed, turned_B), shape.n1)
    return _needed(needed, dx, S, A, dC.view_as(A.mT).mT, dB)


def _needed(needed: tuple[bool, ...], dx: Tensor, S: Tensor, A: Tensor, dC: Tensor, dB: Tensor) -> Gradients:
    """Of ``x`` where that is needed, and of all factors where one of them is: ``C = S * A``."""
    factors = ((dC * A).sum(0), dC * S, dB) if any(needed[1:]) else (None, None, None)
    return (dx if needed[0] else None, *factors)


def _plain_a(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return kron.a_first(x, S, A, B, kron.shape_of(A, B), len(A))


def _plain_b(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return kron.b_first(x, S, A, B, kron.shape_of(A, B), len(A))


PORTIONED: dict[Evaluation, Kernel] = {
    "a_first": Kernel(_plain_a, _a_forward, _a_gradients),
    "b_first": Kernel(_plain_b, _b_forward, _b_gradients),
}
