"""Factors fitted to what a map sees: alternating least squares in the metric of its inputs.

Of ``W' = sum_i (S * A_i) kron B_i`` the error ``tr((W - W') H (W - W')^T)``, ``H [n, n]`` the moments of the inputs, is
quadratic in all ``A_i`` together and in all ``B_i`` together. With ``T = W H`` and ``H`` in blocks, ``T[p, q, j, k]``
and ``H[j, k, j', k']``, and ``a = S * A``:

    [B_1 .. B_r] Z = R       R[q, ik] = sum a_i[p, j] T[p, q, j, k]
                             Z[ik, i'k'] = sum a_i[p, j] a_i'[p, j'] H[j, k, j', k']
    [a_1 .. a_r]_p Q = U_p   U_p[ij] = sum B_i[q, k] T[p, q, j, k]
                             Q[ij, i'j'] = sum B_i[q, k] B_i'[q, k'] H[j, k, j', k']

one system of size ``r n2``, one of size ``r n1`` for all block rows whose live blocks are the same. No step raises the
error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx import kron
from kronfx.compress.refit import damped, refitted
from kronfx.records import KroneckerShape

SWEEPS = 4
LEAST = 1e-10  # damping: of factors that are not needed, which make a system singular


def fitted_factors(
    W: Tensor, H: Tensor, shape: KroneckerShape, rank: int, sweeps: int = SWEEPS
) -> tuple[Tensor, Tensor, Tensor]:
    """``S [m1, n1], A [r, m1, n1], B [r, m2, n2]`` for ``W [m, n]`` and ``H [n, n]``, from the nearest factors on.

    Where a block spans all inputs (``n1 = 1``) no sweep is needed: ``B`` alone is multiplied with them. Takes ``8 n^2``
    bytes besides ``H``.
    """
    return _spanning(W, H, shape, rank) if shape.n1 == 1 else next(fitted_ranks(W, H, shape, (rank,), sweeps))


def fitted_ranks(
    W: Tensor, H: Tensor, shape: KroneckerShape, ranks: Sequence[int], sweeps: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The factors of each rank by as many sweeps."""
    S, nearest_A, nearest_B = kron.nearest_factors(W, shape, max(ranks))
    surplus = shape.n - W.shape[1]
    T = kron.blocks_of(W @ H, shape)  # [m1, n1, m2, n2]
    Hp = F.pad(H, (0, surplus, 0, surplus)).unflatten(1, (shape.n1, -1)).unflatten(0, (shape.n1, -1))
    Hp = Hp.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)  # [j j', k k']
    for rank in ranks:
        A, B = nearest_A[:rank], nearest_B[:rank]
        for _ in range(sweeps):
            B = _B_step(S * A, T, Hp, shape)
            A, B = _balanced(_A_step(S, B, T, Hp, shape), B)
        yield S, A, B


def _spanning(W: Tensor, H: Tensor, shape: KroneckerShape, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The least error there is: of ``W L``, ``H = L L^T``, the nearest factors ``S, A, B L``."""
    root = torch.block_diag(torch.linalg.cholesky(H), torch.eye(shape.n - len(H)).to(H))
    S, A, B = kron.nearest_factors(F.pad(W, (0, shape.n - len(H))) @ root, shape, rank)
    return S, A, torch.linalg.solve_triangular(root, B, upper=False, left=False)


def _B_step(A: Tensor, T: Tensor, Hp: Tensor, shape: KroneckerShape) -> Tensor:
    rank, n1, n2 = len(A), shape.n1, shape.n2
    pairs = torch.einsum("ipj,hpg->ihjg", A, A).reshape(rank**2, n1**2)
    Z = (pairs @ Hp).reshape(rank, rank, n2, n2).transpose(1, 2).reshape(rank * n2, rank * n2)
    R = torch.einsum("ipj,pjqk->qik", A, T).flatten(1)
    all_of_it = torch.ones(1, 1, dtype=torch.bool, device=T.device)
    B = refitted(R, damped(Z, LEAST), all_of_it, KroneckerShape(1, 1, shape.m2, rank * n2))
    return B.reshape(shape.m2, rank, n2).transpose(0, 1)


def _A_step(S: Tensor, B: Tensor, T: Tensor, Hp: Tensor, shape: KroneckerShape) -> Tensor:
    rank, n1, n2 = len(B), shape.n1, shape.n2
    pairs = torch.einsum("iqk,hql->ihkl", B, B).reshape(rank**2, n2**2)
    Q = (pairs @ Hp.mT).reshape(rank, rank, n1, n1).transpose(1, 2).reshape(rank * n1, rank * n1)
    U = torch.einsum("iqk,pjqk->pij", B, T).flatten(1)
    A = refitted(U, damped(Q, LEAST), S.ne(0).repeat(1, rank), KroneckerShape(shape.m1, rank * n1, 1, 1))
    return A.reshape(shape.m1, rank, n1).transpose(0, 1)


def _balanced(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Both of one norm, rank by rank: they are trained at one rate."""
    norms = [torch.linalg.vector_norm(factor, dim=(1, 2), keepdim=True) for factor in (A, B)]
    scale = torch.where((norms[0] > 0) & (norms[1] > 0), (norms[1] / norms[0]).sqrt(), 1.0)
    return A * scale, B / scale
