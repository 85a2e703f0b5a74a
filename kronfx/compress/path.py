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
from kronfx.records import KroneckerShape

MEMORY = 2**28  # bytes of the inverses of the rows that are walked at once; one row at least
WASTE = 0.75  # the share of places still in use below which those of blocks that went are given up


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

    ``8 n^2`` bytes for each row that is walked, of which as many are walked at once as fit into ``MEMORY``.
    """
    surplus = grid.n - len(H)
    inverse = torch.block_diag(torch.cholesky_inverse(torch.linalg.cholesky(H)), torch.eye(surplus).to(H))
    rows = F.pad(W, (0, surplus, 0, grid.m - len(W))).unflatten(0, (grid.m1, grid.m2))
    at_once = max(1, MEMORY // (8 * grid.n**2))
    walked = [_walk(part, inverse, grid.n2) for part in rows.split(at_once)]
    return Path(torch.cat([path.order for path in walked]), torch.cat([path.costs for path in walked]))


def weighed(W: Tensor, G: Tensor, grid: KroneckerShape) -> Tensor:
    """``F_p^T W_p`` of every row of blocks, for ``G [m1, m2, m2]``, ``F_p F_p^T = G_p``: ``[m, n]``, padded."""
    values, vectors = torch.linalg.eigh(G)
    root = vectors * values.clamp_min(0).sqrt().unsqueeze(-2)
    rows = F.pad(W, (0, 0, 0, grid.m - len(W))).unflatten(0, (grid.m1, grid.m2))
    scaled: Tensor = root.mT @ rows
    return scaled.flatten(0, 1)


def _walk(W: Tensor, inverse: Tensor, n2: int) -> Path:
    """The path of these rows ``W [R, m2, n]``, all of them a step at a time."""
    count = len(W)
    every, W = torch.arange(count, device=W.device), W.clone()
    Hi = inverse.expand(count, -1, -1).clone()
    names = torch.arange(W.shape[2] // n2, device=W.device).expand(count, -1)
    gone = torch.zeros_like(names, dtype=torch.bool)
    order, costs = [], []
    for left in range(names.shape[1], 0, -1):
        if left <= WASTE * names.shape[1]:
            W, Hi, names, gone = _kept(W, Hi, names, gone, n2)
        roots, scaled = _scaled(W, Hi, gone, n2)
        cost = scaled.square().sum((-2, -1)).masked_fill(gone, torch.inf)
        least = cost.min(dim=1)
        cheapest = least.indices
        order.append(names[every, cheapest])
        costs.append(least.values)
        across = Hi.unflatten(1, (-1, n2))[every, cheapest]  # [R, n2, n]
        across = torch.linalg.solve_triangular(roots[every, cheapest], across, upper=False)
        W.baddbmm_(scaled[every, cheapest].mT, across, alpha=-1)
        Hi.baddbmm_(across.mT, across, alpha=-1)
        gone[every, cheapest] = True
    return Path(torch.stack(order, 1), torch.stack(costs, 1))


def _scaled(W: Tensor, Hi: Tensor, gone: Tensor, n2: int) -> tuple[Tensor, Tensor]:
    """``L`` and ``L^-1 W_pj^T`` of every block, for ``L L^T = Hi_jj``: ``[R, a, n2, n2]``, ``[R, a, n2, m2]``."""
    diagonal = Hi.unflatten(2, (-1, n2)).unflatten(1, (-1, n2)).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    identity = torch.eye(n2, dtype=Hi.dtype, device=Hi.device)
    roots = torch.linalg.cholesky(torch.where(gone[..., None, None], identity, diagonal))
    blocks = W.unflatten(2, (-1, n2)).permute(0, 2, 3, 1)
    return roots, torch.linalg.solve_triangular(roots, blocks, upper=False)


def _kept(W: Tensor, Hi: Tensor, names: Tensor, gone: Tensor, n2: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same without the blocks that went: as many in every row."""
    count = len(names)
    names = names[~gone].unflatten(0, (count, -1))
    entries = (~gone).repeat_interleave(n2, dim=1).nonzero()[:, 1].unflatten(0, (count, -1))
    W = W.gather(2, entries.unsqueeze(1).expand(-1, W.shape[1], -1))
    Hi = Hi.gather(1, entries.unsqueeze(2).expand(-1, -1, Hi.shape[2]))
    Hi = Hi.gather(2, entries.unsqueeze(1).expand(-1, entries.shape[1], -1))
    return W, Hi, names, torch.zeros_like(names, dtype=torch.bool)


def block_squares(W: Tensor, grid: KroneckerShape) -> Tensor:
    """``[m1, n1]``: the sum of squares of every block."""
    return kron.blocks_of(W, grid).square().sum((-2, -1))
