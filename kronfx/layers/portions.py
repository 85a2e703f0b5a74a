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

import math
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from kronfx import kron
from kronfx.cost import REUSED, is_portioned, work
from kronfx.layers.by_hand import Gradients, Kernel, is_unwatched
from kronfx.layers.factors import Factors
from kronfx.layers.scratch import Scratch
from kronfx.layers.threads import shared_out, sharers
from kronfx.records import Evaluation, KroneckerShape

PORTION = 2**18  # entries of a portion: 1 MB of float32 for each thread, twice as many where torch shares out products
LEAST = 128  # rows of a portion at least: of fewer, asking for the products takes longer than to compute them
NARROW, SMALL = 8, 256  # columns of torch's products a row, and entries of a block, up to which those cost more


def is_worth_turning(x: Tensor, factors: Factors, evaluation: Evaluation, bias: Tensor | None = None) -> bool:
    """Whether these rows are better multiplied by hand, and may be: where less lies between the products, autograd
    keeps it in memory that is there already. Where nothing is trained there is nothing to keep, but torch takes a
    product a row then, of ``n2`` columns (``m2``), and of few they are slow."""
    if not is_unwatched(x, factors, bias):  # first: to a tracer sizes are tensors
        return False
    is_trained = torch.is_grad_enabled() and (factors.S.requires_grad or factors.A.requires_grad)
    m2, n2 = factors.shape.block
    if not is_trained and (n2 if evaluation == "a_first" else m2) <= NARROW and m2 * n2 <= SMALL:
        return True
    rows = x.shape[:-1].numel()
    between = work(factors.shape, factors.rank, rows, evaluation).intermediate
    return is_portioned(between, rows) if is_trained else between >= REUSED


def _portions(rows: int, entries: int, shape: KroneckerShape) -> list[slice]:
    """Slices of the rows, of so many entries a row between the products; as many for each thread."""
    threads = sharers()
    portion = min(PORTION if threads > 1 else 2 * PORTION, shape.m * shape.n // 2)
    most = max(LEAST, portion // max(entries, shape.m, shape.n))
    parts = threads * math.ceil(rows / most / threads)
    size = max(1, math.ceil(rows / max(1, parts)))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _turned(x: Tensor, blocks: int, name: str, scratch: Scratch) -> Tensor:
    """``x [N, b k]`` as ``[b, N k]``."""
    grid = x.unflatten(1, (blocks, -1)).transpose(0, 1)
    return scratch.take(name, *grid.shape, like=x).copy_(grid).flatten(1)


def _mixed(C: Tensor, x: Tensor, B: Tensor, scratch: Scratch) -> Tensor:
    """``C_i x`` as ``[r, m1 N, n2]`` of ``C [r m1, n1]`` and ``x [n1, N n2]``."""
    mixed = scratch.take("mixed", len(C), x.shape[1], like=x)
    return torch.mm(C, x, out=mixed).view(len(B), -1, B.shape[-1])


def _spread(dy: Tensor, B: Tensor, scratch: Scratch) -> Tensor:
    """``dy B_i`` as ``[r, m1 N, n2]`` of ``dy [m1, N m2]``."""
    rows = dy.view(-1, B.shape[-2])
    spread = scratch.take("spread", len(B), len(rows), B.shape[-1], like=dy)
    return torch.bmm(rows.expand(len(B), -1, -1), B, out=spread)


def _collected(mixed: Tensor, B: Tensor, name: str, scratch: Scratch) -> Tensor:
    """``sum_i mixed_i B_i^T [m1 N, m2]``."""
    y = torch.mm(mixed[0], B[0].t(), out=scratch.take(name, mixed.shape[1], B.shape[1], like=B))
    for mixed_i, B_i in zip(mixed[1:], B[1:]):
        y.addmm_(mixed_i, B_i.t())
    return y


def _gathered(C: Tensor, spread: Tensor, name: str, scratch: Scratch) -> Tensor:
    """``sum_i C_i^T spread_i [n1, N n2]``."""
    rows = spread.view(len(C), -1)
    return torch.mm(C.t(), rows, out=scratch.take(name, C.shape[1], rows.shape[1], like=C))


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

    def multiply(portions: Sequence[slice], scratch: Scratch) -> None:
        for rows in portions:
            mixed = _mixed(C, _turned(x[rows], shape.n1, "x", scratch), B, scratch)
            _put(y[rows], _collected(mixed, B, "y", scratch), shape.m1)

    shared_out(multiply, _portions(len(x), len(C) * shape.n2, shape))
    return y


def _b_forward(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    shape, C, turned_B = kron.shape_of(A, B), (S * A).mT.flatten(0, 1), B.mT
    y = x.new_empty(len(x), shape.m)

    def multiply(portions: Sequence[slice], scratch: Scratch) -> None:
        for rows in portions:
            spread = _spread(_turned(x[rows], shape.n1, "x", scratch), turned_B, scratch)
            _put(y[rows], _gathered(C, spread, "y", scratch), shape.m1)

    shared_out(multiply, _portions(len(x), len(C) * shape.m2, shape))
    return y


def _a_gradients(x: Tensor, S: Tensor, A: Tensor, B: Tensor, dy: Tensor, needed: tuple[bool, ...]) -> Gradients:
    shape, C = kron.shape_of(A, B), (S * A).flatten(0, 1)
    dx = torch.empty_like(x)

    def multiply(portions: Sequence[slice], scratch: Scratch) -> tuple[Tensor, Tensor]:
        dC, dB = torch.zeros_like(C), torch.zeros_like(B)
        for rows in portions:
            ours, theirs = _turned(x[rows], shape.n1, "x", scratch), _turned(dy[rows], shape.m1, "y", scratch)
            spread = _spread(theirs, B, scratch)
            if any(needed[1:]):
                _add(dC, dB, _mixed(C, ours, B, scratch), spread, ours, theirs)
            if needed[0]:
                _put(dx[rows], _gathered(C, spread, "x", scratch), shape.n1)
        return dC, dB

    dC, dB = _summed(shared_out(multiply, _portions(len(x), len(C) * shape.n2, shape)))
    return _needed(needed, dx, S, A, dC.view_as(A), dB)


def _b_gradients(x: Tensor, S: Tensor, A: Tensor, B: Tensor, dy: Tensor, needed: tuple[bool, ...]) -> Gradients:
    shape, C, turned_B = kron.shape_of(A, B), (S * A).mT.flatten(0, 1), B.mT
    dx = torch.empty_like(x)

    def multiply(portions: Sequence[slice], scratch: Scratch) -> tuple[Tensor, Tensor]:
        dC, dB = torch.zeros_like(C), torch.zeros_like(B)
        for rows in portions:
            ours, theirs = _turned(x[rows], shape.n1, "x", scratch), _turned(dy[rows], shape.m1, "y", scratch)
            mixed = _mixed(C, theirs, turned_B, scratch)
            if any(needed[1:]):
                _add(dC, dB.mT, mixed, _spread(ours, turned_B, scratch), theirs, ours)
            if needed[0]:
                _put(dx[rows], _collected(mixed, turned_B, "x", scratch), shape.n1)
        return dC, dB

    dC, dB = _summed(shared_out(multiply, _portions(len(x), len(C) * shape.m2, shape)))
    return _needed(needed, dx, S, A, dC.view_as(A.mT).mT, dB)


def _summed(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """``dC`` and ``dB`` of all threads."""
    return reduce(add, (dC for dC, _ in found)), reduce(add, (dB for _, dB in found))


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
