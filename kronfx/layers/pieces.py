"""How some rows of blocks of ``W`` lie in memory while they are multiplied: turned into rows, or by entries of a block.

Both keep a piece as ``[K, rows, columns]`` and ``x`` as ``[K, N, columns]``, such that ``y = sum_k x_k W_k^T``.
``C [r, p n1]`` are the coefficients ``S * A`` of ``p`` rows of blocks, ``E [r, m2 n2]`` the entries of ``B``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kronfx.records import KroneckerShape


class ByRows:
    """``W [1, p m2, n]``: the piece is turned, ``x`` and ``y`` stay as they are."""

    def __init__(self, shape: KroneckerShape) -> None:
        self.shape = shape

    def entries(self, B: Tensor) -> Tensor:
        """``B [r, m2, n2]`` as ``E``, ordered ``(q, k)``."""
        return B.flatten(1)

    def block(self, E: Tensor) -> Tensor:
        """``E`` as ``B``."""
        B: Tensor = E.unflatten(1, self.shape.block)
        return B

    def arranged(self, x: Tensor) -> Tensor:
        """``x [N, n]`` as ``[K, N, columns]``."""
        return x.unsqueeze(0)

    def restored(self, x: Tensor) -> Tensor:
        """The way back."""
        return x.squeeze(0)

    def formed(self, C: Tensor, E: Tensor) -> Tensor:
        """The piece of ``W``."""
        grid = (C.t() @ E).view(-1, self.shape.n1, *self.shape.block)
        return grid.transpose(1, 2).reshape(1, -1, self.shape.n)

    def products(self, W: Tensor) -> Tensor:
        """A piece as ``[m2 n2, p n1]``, what ``E^T C`` is."""
        grid = W.view(-1, self.shape.m2, self.shape.n1, self.shape.n2).transpose(1, 2)
        return grid.reshape(-1, self.shape.m2 * self.shape.n2).t()

    def ordered(self, y: Tensor) -> Tensor:
        """``y [N, p, m2]`` as the piece has its rows."""
        return y.flatten(1)

    def multiply(self, x: Tensor, W: Tensor, y: Tensor) -> None:
        """Write ``y [N, p, m2] = sum_k x_k W_k^T``."""
        torch.mm(x[0], W[0].t(), out=y.flatten(1))


class ByEntries(ByRows):
    """``W [n2, m2 p, n1]``: just what the product ``E^T C`` is, with ``E`` ordered ``(k, q)``; ``x`` and ``y`` are
    turned instead, which is less to move where rows are few.
    """

    def entries(self, B: Tensor) -> Tensor:
        return B.transpose(1, 2).flatten(1)

    def block(self, E: Tensor) -> Tensor:
        B: Tensor = E.unflatten(1, self.shape.block[::-1])
        return B.transpose(1, 2)

    def arranged(self, x: Tensor) -> Tensor:
        blocks: Tensor = x.unflatten(1, (self.shape.n1, self.shape.n2))
        return blocks.permute(2, 0, 1).contiguous()

    def restored(self, x: Tensor) -> Tensor:
        return x.permute(1, 2, 0).flatten(1)

    def formed(self, C: Tensor, E: Tensor) -> Tensor:
        return (E.t() @ C).view(self.shape.n2, -1, self.shape.n1)

    def products(self, W: Tensor) -> Tensor:
        return W.view(self.shape.m2 * self.shape.n2, -1)

    def ordered(self, y: Tensor) -> Tensor:
        return y.transpose(1, 2).flatten(1)

    def multiply(self, x: Tensor, W: Tensor, y: Tensor) -> None:
        sums = x[0] @ W[0].t()
        for x_k, W_k in zip(x[1:], W[1:]):
            sums.addmm_(x_k, W_k.t())
        y.copy_(sums.unflatten(1, (self.shape.m2, -1)).transpose(1, 2))
