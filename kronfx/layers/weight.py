"""``W`` from its factors as layers form it: torch turns ``[m1 n1, m2 n2]`` into ``[m, n]`` entry by entry, slowly where
a block has few columns; here a row of a block moves at once (measured: ``kronfx/decisions/formed.md``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kronfx.layers.factors import Factors
from kronfx.layers.precision import unwatched
from kronfx.layers.runs import moved

NARROW = 32  # bytes of a block's row, up to which that pays


def formed_weight(factors: Factors) -> Tensor:
    """``W [m, n] = sum_i (S * A_i) kron B_i``, differentiable; a stack's ``[..., m, n]``."""
    S, A, B = factors.S, factors.A, factors.B
    if not unwatched(S, A, B) or S.dim() > 2 or factors.shape.n2 * B.itemsize > NARROW:  # to a tracer sizes are tensors
        return factors.materialize()
    products = torch.mm((S * A).flatten(1).t(), B.flatten(1))
    swap: Any = Swapped.apply
    W: Tensor = swap(products.view(*S.shape, *B.shape[1:])).flatten(2).flatten(0, 1)
    return W if factors.features is None else W[: factors.features[0], : factors.features[1]]


class Swapped(torch.autograd.Function):
    """``grid [m1, n1, m2, n2] -> [m1, m2, n1, n2]`` in new memory, and the other way round: its own derivative."""

    @staticmethod
    def forward(_ctx: Any, grid: Tensor) -> Tensor:
        turned = grid.transpose(1, 2)
        return moved(grid.new_empty(turned.shape), turned)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Any:
        return Swapped.apply(gradient)

    @staticmethod
    def jvp(_ctx: Any, tangent: Tensor) -> Any:
        return Swapped.apply(tangent)
