"""In which order the blocks of a block row go, and what each costs: optimal brain surgeon, on blocks.

Rows of blocks share nothing but the inputs. Of one of them, ``W_p [m2, n]``, with ``Hi = H^-1``: block ``j`` costs
``tr(F^T W_pj [Hi_jj]^-1 W_pj^T F)``, the least increase of the error that taking it out makes, all others set anew;
``F F^T`` is what an error of the outputs is weighed with. The cheapest goes,

    W_p -= W_pj [Hi_jj]^-1 Hi_j,:      Hi -= Hi_:,j [Hi_jj]^-1 Hi_j,:

and so on to the last one (Hassibi and Stork 1993, of weights; Frantar and Alistarh, Optimal Brain Compression, 2022,
row by row). One path serves every share. As ``F`` acts on rows and the updates on columns, the path of ``F^T W``
unweighted is that of ``W`` weighted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx import kron
from kronfx.progress import bar
from kronfx.records import KroneckerShape

MEMORY = 2**28  # bytes of what was taken from the inverses of the rows that are walked at once; one row at least
TOLERANCE = 1e-3  # what float32 may make of a cost, as a share of it; else float64


@dataclass(frozen=True, eq=False, slots=True)
class Path:
    """``order [m1, n1]``: the blocks of every row, the first to go first; ``costs [m1, n1]``: what each costs then."""

    order: Tensor
    costs: Tensor

    def to(self, device: str) -> Path:
        """The same on a device."""
        return Path(self.order.to(device), self.costs.to(device))


def sorted_path(costs: Tensor) -> Path:
    """That of costs ``[m1, n1]`` which no other block's going changes."""
    ordered = costs.sort(dim=1, stable=True)
    return Path(ordered.indices, ordered.values)


def surgeon_path(W: Tensor, H: Tensor, grid: KroneckerShape) -> Path:
    """The path of ``W [m, n]`` for inputs of the moments ``H [n, n]``, which is positive definite.

    Rows of blocks are walked together as far as ``MEMORY`` goes: a row takes ``4 n^2`` bytes, in float64 twice that.
    Besides ``H`` and ``W`` it takes ``16 n^2`` bytes for a while, and while the rows are walked their ``4 n^2``.
    """
    tiles = _inverse(H, grid)
    surplus = grid.n - len(H)
    rows = F.pad(W, (0, surplus, 0, grid.m - len(W))).unflatten(0, (grid.m1, grid.m2))
    at_once = max(1, MEMORY // (tiles.itemsize * grid.n**2))
    portions, walked = rows.split(at_once), []
    with bar("its rows of blocks", len(portions)) as begin:
        for number, portion in enumerate(portions, 1):
            begin(f"{number} of {len(portions)}")
            walked.append(_walk(portion.to(tiles), tiles))
    return Path(torch.cat([path.order for path in walked]), torch.cat([path.costs for path in walked]).to(W))


def _inverse(H: Tensor, grid: KroneckerShape) -> Tensor:
    """``H^-1`` in blocks ``[n1, n1, n2, n2]``, in float32 where that does for the path.

    What rounding leaves on ``Hi_kk`` is a share of what it was at first; in the end it is ``1 / H_kk``.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
    error = torch.finfo(torch.float32).eps * float((H.diagonal() * inverse.diagonal()).max())
    inverse = inverse.to(torch.float32 if error < TOLERANCE else torch.float64)
    inverse = torch.block_diag(inverse, torch.eye(grid.n - len(H)).to(inverse))
    return kron.blocks_of(inverse, KroneckerShape(grid.n1, grid.n1, grid.n2, grid.n2)).contiguous()


def weighed(W: Tensor, G: Tensor, grid: KroneckerShape) -> Tensor:
    """``F_p^T W_p`` of every row of blocks, for ``G [m1, m2, m2]``, ``F_p F_p^T = G_p``: ``[m, n]``, padded."""
    values, vectors = torch.linalg.eigh(G)
    root = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    rows = F.pad(W, (0, 0, 0, grid.m - len(W))).unflatten(0, (grid.m1, grid.m2))
    scaled: Tensor = root.mT @ rows
    return scaled.flatten(0, 1)


def _walk(W: Tensor, tiles: Tensor) -> Path:
    """The path of these rows ``W [R, m2, n]``, all of them a step at a time; ``tiles [n1, n1, n2, n2]`` of ``H^-1``.

    The last block that stays takes the place of the one that goes: those that stay are the first ``a`` places.
    """
    count, n1, n2 = len(W), len(tiles), tiles.shape[2]
    every = torch.arange(count, device=W.device)
    names = torch.arange(n1, device=W.device).repeat(count, 1)
    W = W.mT.unflatten(1, (n1, n2)).contiguous()  # [R, n1, n2, m2]
    D = tiles.diagonal().permute(2, 0, 1).repeat(count, 1, 1, 1)
    U = W.new_empty(count, n1, n2, n1 * n2)
    order, costs = [], []
    for a in range(n1, 0, -1):
        done = n2 * (n1 - a)
        roots = torch.linalg.cholesky(D[:, :a])
        scaled = torch.linalg.solve_triangular(roots, W[:, :a], upper=False)  # L^-1 W_pj^T, for L L^T = Hi_jj
        least = scaled.square().sum((-2, -1)).min(dim=1)
        j = least.indices
        order.append(names[every, j])
        costs.append(least.values)
        Hi = tiles[names[:, :a], order[-1][:, None]].flatten(1, 2)  # [R, a n2, n2], of before the first step
        if done:
            Hi.baddbmm_(U[:, :a, :, :done].flatten(1, 2), U[every, j, :, :done].mT, alpha=-1)
        across = torch.linalg.solve_triangular(roots[every, j].mT, Hi, upper=True, left=False)
        W[:, :a].flatten(1, 2).baddbmm_(across, scaled[every, j], alpha=-1)
        U[:, :a, :, done : done + n2] = across.unflatten(1, (a, n2))
        own = across.unflatten(1, (a, n2)).flatten(0, 1)
        D[:, :a] -= (own @ own.mT).unflatten(0, (count, a))
        for value in (names, W, D, U[..., : done + n2]):
            value[every, j] = value[:, a - 1].clone()
    return Path(torch.stack(order, 1), torch.stack(costs, 1))


def block_squares(W: Tensor, grid: KroneckerShape) -> Tensor:
    """``[m1, n1]``: the sum of squares of every block."""
    return kron.blocks_of(W, grid).square().sum((-2, -1))
