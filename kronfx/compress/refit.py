"""What is left of a map, set anew: least squares in the metric of its inputs, exactly, block row by block row."""

from __future__ import annotations

import torch
from torch import Tensor

from kronfx import kron
from kronfx.records import KroneckerShape


def damped(H: Tensor, share: float) -> Tensor:
    """``H`` plus a share of its mean diagonal; of inputs that never vary, the identity: every weight is as good."""
    mean = float(H.diagonal().mean())
    H = H.clone()
    H.diagonal().add_(share * mean if mean > 0 else 1.0)
    return H


def refitted(T: Tensor, H: Tensor, kept: Tensor, grid: KroneckerShape) -> Tensor:
    """``W [m, n]`` that is zero outside of the blocks ``kept [m1, n1]`` and has the least
    ``tr(W H W^T) - 2 tr(W T^T)``: in every row of blocks ``W_p,a = T_p,a [H_aa]^-1`` on its survivors ``a``.

    ``T [m, n] = W_dense H`` makes that the least squared error of the outputs. One Cholesky a distinct pattern.
    """
    W = torch.zeros_like(T)
    patterns, which = torch.unique(kept, dim=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = _entries(which == number, grid.m2, len(T))
        columns = _entries(pattern, grid.n2, len(H))
        if len(columns):
            root = torch.linalg.cholesky(H[columns[:, None], columns])
            W[rows[:, None], columns] = torch.cholesky_solve(T[rows[:, None], columns].mT, root).mT
    return W


def masked(W: Tensor, kept: Tensor, grid: KroneckerShape) -> Tensor:
    """``W [m, n]``, the blocks that are not ``kept [m1, n1]`` zero."""
    return W * kron.over_entries(kept, grid)[: W.shape[0], : W.shape[1]]


def _entries(blocks: Tensor, size: int, count: int) -> Tensor:
    """The numbers of the entries of these blocks, of ``count`` entries."""
    return blocks.repeat_interleave(size)[:count].nonzero()[:, 0]
