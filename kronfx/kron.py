"""The algebra: ``W [m, n] = sum_i (S * A_i) kron B_i`` and what can be done without ever forming ``W``.

``S [m1, n1]``, ``A [r, m1, n1]``, ``B [r, m2, n2]``, ``m = m1 m2``, ``n = n1 n2`` and
``W[p m2 + q, j n2 + k] = S[p, j] sum_i A_i[p, j] B_i[q, k]`` (paper, Eq. 3): block ``(p, j)`` of ``W`` is an
``m2 x n2`` tile, exactly zero where ``S[p, j] == 0``.

``y = x W^T`` has three evaluations. Each is two matrix products on two *operands* that depend on the factors alone:
``*_operands`` builds them, ``apply_*`` uses them. Training builds them at every call (they carry the gradient);
deployment stores them. All leading axes of ``x [..., n]`` pass through, so no shape is ever read from a tensor and
the same code traces symbolically, exports with dynamic axes and compiles without a graph break.

While ``left`` carries a gradient it gets a leading axis of 1, where the temporary that this costs is no larger than the
intermediate that is there anyway: ``kronfx/decisions/leading_axis.md``. Layers that read the same ``x`` keep their
products apart: ``kronfx/decisions/shared_products.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx.records import KroneckerShape

Convolve = Callable[[Tensor, Tensor], Tensor]


def shape_of(A: Tensor, B: Tensor) -> KroneckerShape:
    """The shape that factors ``A [r, m1, n1]`` and ``B [r, m2, n2]`` spell."""
    return KroneckerShape(A.shape[-2], A.shape[-1], B.shape[-2], B.shape[-1])


def a_first_operands(S: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """``left [m1 r, n1]``, rows ordered ``(p, i)``, and ``right [r n2, m2]``, rows ordered ``(i, k)``."""
    return (S * A).transpose(0, 1).flatten(0, 1), B.transpose(1, 2).flatten(0, 1)


def apply_a_first(x: Tensor, left: Tensor, right: Tensor, shape: KroneckerShape, rank: int) -> Tensor:
    """``x [..., n] -> y [..., m]``: mix the input blocks, then multiply each mixture by all ``B_i`` at once."""
    blocks = x.unflatten(-1, (shape.n1, shape.n2))  # [..., n1, n2]
    mixed = torch.matmul(left, blocks)  # [..., m1 r, n2]
    rows = mixed.unflatten(-2, (shape.m1, rank)).flatten(-2)  # [..., m1, r n2]
    return torch.matmul(rows, right).flatten(-2)


def b_first_operands(S: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """``left [m1, n1 r]``, columns ordered ``(j, i)``, and ``right [n2, r m2]``, columns ordered ``(i, q)``."""
    return (S * A).permute(1, 2, 0).flatten(1), B.flatten(0, 1).transpose(0, 1)


def apply_b_first(x: Tensor, left: Tensor, right: Tensor, shape: KroneckerShape, rank: int) -> Tensor:
    """``x [..., n] -> y [..., m]``: multiply every input block by all ``B_i`` at once, then mix the results."""
    blocks = x.unflatten(-1, (shape.n1, shape.n2))  # [..., n1, n2]
    tiles = torch.matmul(blocks, right)  # [..., n1, r m2]
    rows = tiles.unflatten(-1, (rank, shape.m2)).flatten(-3, -2)  # [..., n1 r, m2]
    return torch.matmul(left, rows).flatten(-2)


def a_first(x: Tensor, S: Tensor, A: Tensor, B: Tensor, shape: KroneckerShape, rank: int) -> Tensor:
    """``x [..., n] -> x W^T [..., m]`` in ``r m1 n2 (n1 + m2)`` multiply-adds a row."""
    left, right = a_first_operands(S, A, B)
    if shape.n1 > shape.n2:
        return apply_a_first(x, left, right, shape, rank)
    return apply_a_first(x.unsqueeze(0), left.unsqueeze(0), right, shape, rank).squeeze(0)


def b_first(x: Tensor, S: Tensor, A: Tensor, B: Tensor, shape: KroneckerShape, rank: int) -> Tensor:
    """``x [..., n] -> x W^T [..., m]`` in ``r n1 m2 (n2 + m1)`` multiply-adds a row."""
    left, right = b_first_operands(S, A, B)
    if shape.m1 > shape.m2:
        return apply_b_first(x, left, right, shape, rank)
    return apply_b_first(x.unsqueeze(0), left.unsqueeze(0), right, shape, rank).squeeze(0)


def stacked_a_first(x: Tensor, S: Tensor, A: Tensor, B: Tensor, shape: KroneckerShape) -> Tensor:
    """:func:`a_first` of a stack of maps: every factor and ``x [*stack, N, n]`` have its leading axes."""
    blocks = x.unflatten(-1, (shape.n1, shape.n2))
    mixed = torch.einsum("...ipj,...njk->...npik", S.unsqueeze(-3) * A, blocks)  # [*stack, N, m1, r, n2]
    right = B.transpose(-2, -1).flatten(-3, -2)  # [*stack, r n2, m2]
    y: Tensor = torch.matmul(mixed.flatten(-2).flatten(-3, -2), right).unflatten(-2, (-1, shape.m1))
    return y.flatten(-2)


def stacked_b_first(x: Tensor, S: Tensor, A: Tensor, B: Tensor, shape: KroneckerShape) -> Tensor:
    """:func:`b_first` of a stack of maps."""
    blocks = x.unflatten(-1, (shape.n1, shape.n2)).flatten(-3, -2)  # [*stack, N n1, n2]
    tiles = torch.matmul(blocks, B.flatten(-3, -2).mT)  # [*stack, N n1, r m2]
    grid = tiles.unflatten(-2, (-1, shape.n1)).unflatten(-1, (-1, shape.m2))
    y: Tensor = torch.einsum("...ipj,...njiq->...npq", S.unsqueeze(-3) * A, grid)
    return y.flatten(-2)


def materialize(S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``W [m, n] = sum_i (S * A_i) kron B_i``, by one product ``[m1 n1, r] @ [r, m2 n2]``.

    A zero of ``S`` zeroes its whole row of the left operand, so its block comes out exactly zero. Leading axes, the
    same for all three (experts), pass through.
    """
    grid: Tensor = torch.einsum("...ipj,...iqk->...pqjk", S.unsqueeze(-3) * A, B)
    return grid.flatten(-2).flatten(-3, -2)


def materialized(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``x [..., n] -> x W^T [..., m]`` through the dense ``W``: ``m n (+ r m n / N)`` multiply-adds a row."""
    return F.linear(x, materialize(S, A, B))


def blocks_of(W: Tensor, shape: KroneckerShape) -> Tensor:
    """The blocks of ``W [..., m, n]`` as ``[..., m1, n1, m2, n2]``, a view where ``W`` allows one.

    Rows and columns that a padded shape has more than ``W`` count as zeros.
    """
    surplus = shape.m - W.shape[-2], shape.n - W.shape[-1]
    if any(surplus):
        W = F.pad(W, (0, surplus[1], 0, surplus[0]))
    return W.reshape(*W.shape[:-2], shape.m1, shape.m2, shape.n1, shape.n2).transpose(-3, -2)


def over_entries(values: Tensor, shape: KroneckerShape) -> Tensor:
    """``values [..., m1, n1]`` of the blocks as ``[..., m, n]``, each at all entries of its block."""
    return values.repeat_interleave(shape.m2, -2).repeat_interleave(shape.n2, -1)


def block_mask(W: Tensor, shape: KroneckerShape) -> Tensor:
    """``[..., m1, n1]`` booleans: which blocks of ``W`` have a non-zero entry."""
    return blocks_of(W, shape).ne(0).any(dim=-1).any(dim=-1)


def nearest_factors(W: Tensor, shape: KroneckerShape, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """``S, A, B`` of the rank-``r`` sum nearest to ``W [m, n]`` in the Frobenius norm.

    ``S`` is the mask of the non-zero blocks; ``A`` and ``B`` share the singular values of the rearrangement
    ``R(W) [m1 n1, m2 n2]`` evenly (Van Loan and Pitsianis 1993). At ``r = min(m1 n1, m2 n2)`` the sum is ``W``
    itself, for any block-sparse ``W`` too, zero blocks exactly (paper, Proposition 1). Computed in float32 at
    least; the results have ``W``'s dtype.

    Ranks that ``W`` has no use for start as LoRA's do, ``A_i`` drawn and ``B_i = 0``: were both zero, neither would
    ever get a gradient. Nor would they if a zero ``W`` had ``S = 0``, so there it is 1.
    """
    precise = W.detach().to(torch.promote_types(W.dtype, torch.float32))
    R = blocks_of(precise, shape).flatten(-2).flatten(-3, -2)
    U, singular, Vh = torch.linalg.svd(R, full_matrices=False)
    root = singular[..., :rank].sqrt()
    A = (U[..., :rank] * root.unsqueeze(-2)).mT.unflatten(-1, (shape.m1, shape.n1))
    B = (root.unsqueeze(-1) * Vh[..., :rank, :]).unflatten(-1, shape.block)
    S = block_mask(precise, shape)
    S |= ~S.any(dim=-1, keepdim=True).any(dim=-2, keepdim=True)
    idle = _idle(singular)[..., :rank, None, None]
    if bool(idle.any()):
        drawn = torch.randn_like(A) * _coefficient(singular, W, rank) * S.unsqueeze(-3)
        A, B = torch.where(idle, drawn, A), B.masked_fill(idle, 0.0)
    return S.to(W.dtype), A.to(W.dtype).contiguous(), B.to(W.dtype).contiguous()


def _idle(singular: Tensor) -> Tensor:
    """Which of the ranks ``[..., R]`` are, with all after them, a rounding of the rest: 16 eps of its norm at most."""
    tails = singular.square().flip(-1).cumsum(-1).flip(-1).sqrt()
    idle: Tensor = tails <= 16 * torch.finfo(singular.dtype).eps * tails[..., :1]
    return idle


def _coefficient(singular: Tensor, W: Tensor, rank: int) -> Tensor:
    """``[..., 1, 1, 1]``: the root mean square of ``A`` in a random start, ``sqrt(std) / r^(1/4)``, for the ``std`` of
    ``W [m, n]`` or, where it is zero, ``nn.Linear``'s."""
    std = torch.linalg.vector_norm(singular, dim=-1) / math.sqrt(W.shape[-2] * W.shape[-1])
    std = torch.where(std > 0, std, 1 / math.sqrt(3 * W.shape[-1]))
    rms: Tensor = std.sqrt() / rank**0.25
    return rms[..., None, None, None]


def energy_kept(W: Tensor, shape: KroneckerShape) -> Tensor:
    """``[R]``: the share of ``||W||^2`` that the nearest factors of ranks ``1 .. R = min(m1 n1, m2 n2)`` keep.

    The running sum of the squared singular values of ``R(W)`` over all of them (Eckart and Young 1936), which are the
    eigenvalues of the Gram matrix of its smaller side; their mean over a stack. Of a zero weight every rank keeps all.
    """
    R = blocks_of(W.detach().to(torch.float64), shape).flatten(-2).flatten(-3, -2)
    gram = R @ R.mT if R.shape[-2] <= R.shape[-1] else R.mT @ R
    squares = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0)
    total = squares.sum(-1, keepdim=True)
    kept = torch.where(total > 0, squares.cumsum(-1) / total, 1.0).clamp_max(1)
    return kept.flatten(0, -2).mean(0) if kept.dim() > 1 else kept


def conv_a_first(x: Tensor, S: Tensor, A: Tensor, B: Tensor, shape: KroneckerShape, convolve: Convolve) -> Tensor:
    """``x [N, channels, ...] -> [N, m, ...]``: mix the input channels, then convolve each mixture with all ``B_i``.

    ``B [r, m2, n2 / taps, *kernel]`` (Kronecker product of tensors: Hameed et al., GKPD, arXiv 2109.14710).
    """
    blocks = x.unflatten(1, (shape.n1, -1))  # [N, n1, n2 / taps, ...]
    mixed = torch.einsum("ipj,njk...->npik...", S * A, blocks).flatten(0, 1).flatten(1, 2)  # [N m1, r n2 / taps, ...]
    y = convolve(mixed, B.transpose(0, 1).flatten(1, 2))  # [N m1, m2, ...]
    grid: Tensor = y.unflatten(0, (-1, shape.m1))
    return grid.flatten(1, 2)


def conv_b_first(x: Tensor, S: Tensor, A: Tensor, B: Tensor, shape: KroneckerShape, convolve: Convolve) -> Tensor:
    """``x [N, channels, ...] -> [N, m, ...]``: convolve every input block with all ``B_i``, then mix the results."""
    tiles = convolve(x.unflatten(1, (shape.n1, -1)).flatten(0, 1), B.flatten(0, 1))  # [N n1, r m2, ...]
    grid = tiles.unflatten(0, (-1, shape.n1)).unflatten(2, (-1, shape.m2))  # [N, n1, r, m2, ...]
    y: Tensor = torch.einsum("ipj,njiq...->npq...", S * A, grid)
    return y.flatten(1, 2)
