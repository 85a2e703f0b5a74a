"""What a penalty acts on: the blocks of a factored layer through its ``S``, the groups of a dense weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronfx import kron
from kronfx.layers import KroneckerLinear
from kronfx.records import KroneckerShape
from kronfx.train.shrinkage import Shrinkage
from kronfx.train.tensors import placed, whole


@dataclass(frozen=True)
class FactoredPart:
    """The blocks of a factored layer: ``||S||_1``, by soft-thresholding ``S``, and the scale of ``S`` held."""

    name: str
    layer: KroneckerLinear

    @property
    def label(self) -> str:
        """The site and its size."""
        return f"{self.name} ({self.layer.out_features}x{self.layer.in_features})"

    @property
    def parameter(self) -> nn.Parameter:
        """``S``."""
        return self.layer.S

    @property
    def signature(self) -> list[int]:
        """``m1, n1, m2, n2``, the rank and the blocks, a stack's all together."""
        shape = self.layer.grid
        return [shape.m1, shape.n1, shape.m2, shape.n2, self.layer.rank, self.layer.blocks]

    @property
    def groups(self) -> int:
        """The blocks, a stack's all together."""
        return self.layer.blocks

    def sizes(self) -> Tensor:
        """``|S|``."""
        return whole(self.layer.S.detach()).abs().float().flatten()

    def value(self) -> Tensor:
        """``||S||_1``."""
        return self.sizes().sum()

    def shrink(self, threshold: float) -> None:
        """``S <- sign(S) max(|S| - threshold, 0)``, then the scale."""
        self.layer.S.copy_(F.softshrink(self.layer.S, threshold))
        hold_scale(self.layer)

    def slopes(self) -> Tensor:
        """``S dL/dS``, of the last backward pass; zeros where it did not reach this layer."""
        S = self.layer.S.detach()
        gradient = torch.zeros_like(S) if self.layer.S.grad is None else self.layer.S.grad
        return (whole(S).float() * whole(gradient).float()).flatten()

    def alive(self) -> Tensor:
        """The blocks with a coefficient ``S[p, j] A_i[p, j]`` that is not zero, ranks with ``B_i = 0`` aside."""
        layer = self.layer
        live = layer.B.flatten(-2).ne(0).any(dim=-1)[..., None, None]
        return whole((layer.S.unsqueeze(-3) * layer.A * live).ne(0).any(dim=-3)).flatten()

    def present(self) -> Tensor:
        """The blocks that are not gone: those alive, and, of a map that starts as zero (all of its ``A`` or of its
        ``B``), those whose ``S`` is not zero: it has no block yet, and is about to grow them."""
        S, A, B = (whole(factor.detach()) for factor in (self.layer.S, self.layer.A, self.layer.B))
        begun = A.ne(0).flatten(-3).any(dim=-1) & B.ne(0).flatten(-3).any(dim=-1)
        waits = (S.ne(0) & ~begun[..., None, None]).flatten()
        return self.alive() | waits

    def keep(self, alive: Tensor) -> None:
        """Zero ``S`` everywhere else."""
        self.layer.S.mul_(placed(alive.unflatten(0, self.layer.S.shape), self.layer.S))


@dataclass(frozen=True)
class DensePart:
    """The tiles of a dense weight ``W [m, n]`` (a convolution's, unrolled), charged for their Frobenius norms."""

    label: str
    weight: nn.Parameter
    shape: KroneckerShape
    shrinkage: Shrinkage

    @property
    def parameter(self) -> nn.Parameter:
        """``W``."""
        return self.weight

    @property
    def signature(self) -> list[int]:
        """``m1, n1, m2, n2``."""
        return [self.shape.m1, self.shape.n1, *self.shape.block]

    @property
    def groups(self) -> int:
        """The tiles."""
        return self.shape.blocks

    def sizes(self) -> Tensor:
        """``||W_g||_F`` of every tile."""
        tiles = self._tiles()
        dtype = torch.promote_types(tiles.dtype, torch.float32)
        norms: Tensor = torch.linalg.vector_norm(tiles, dim=-1, dtype=dtype)
        return norms

    def value(self) -> Tensor:
        """What the shrinkage charges, summed over the tiles."""
        return self.shrinkage.charge(self.sizes()).sum()

    def shrink(self, threshold: float) -> None:
        """``W_g <- factor(||W_g||) W_g``: the proximal operator of a penalty on norms."""
        self._scale(self.shrinkage.factor(self.sizes(), threshold))

    def alive(self) -> Tensor:
        """The tiles with an entry that is not zero."""
        return self._tiles().ne(0).any(dim=-1)

    def present(self) -> Tensor:
        """The same."""
        return self.alive()

    def keep(self, alive: Tensor) -> None:
        """Zero the others."""
        self._scale(alive)

    def _tiles(self) -> Tensor:
        """``[m1 n1, m2 n2]``."""
        tiles: Tensor = kron.blocks_of(whole(self.weight.detach()).flatten(1), self.shape).flatten(-2).flatten(0, 1)
        return tiles

    def _scale(self, factors: Tensor) -> None:
        grid = factors.unflatten(0, (self.shape.m1, self.shape.n1))
        factor = grid.repeat_interleave(self.shape.m2, 0).repeat_interleave(self.shape.n2, 1)
        self.weight.mul_(placed(factor.reshape(self.weight.shape), self.weight))


def hold_scale(layer: KroneckerLinear) -> None:
    """``S`` to a root mean square of 1; ``A`` takes the factor, ``W`` stays, to rounding. An ``S`` of zeros stays."""
    norm = torch.linalg.vector_norm(layer.S, dtype=torch.promote_types(layer.S.dtype, torch.float32))
    factor = torch.where(norm > 0, norm / math.sqrt(layer.S.numel()), 1)
    layer.S.div_(factor)
    layer.A.mul_(factor)
