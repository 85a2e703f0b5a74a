"""The blocks of a factored layer, through its ``S``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kronfx.layers import KroneckerLinear, kronecker_layers
from kronfx.train.parts.carry import Carry
from kronfx.train.parts.shrinkage import Lasso, Shrinkage
from kronfx.train.parts.tensors import placed, whole


@dataclass(frozen=True)
class FactoredPart:
    """The blocks of a factored layer, each charged for its ``|S[p, j]|``, and the scale of ``S`` held."""

    name: str
    layer: KroneckerLinear
    shrinkage: Shrinkage = field(default_factory=Lasso)
    carry: Carry = field(default_factory=Carry)

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
        return whole(self.carry.read("S", self.layer.S)).abs().float().flatten()

    def value(self) -> Tensor:
        """What the shrinkage charges, summed over the blocks: ``||S||_1`` for the lasso."""
        return self.shrinkage.charge(self.sizes()).sum()

    def shrink(self, threshold: float) -> None:
        """``S <- factor(|S|) S``, by the lasso ``sign(S) max(|S| - threshold, 0)``; then ``S`` to a root mean square of
        1: ``A`` takes the scale, ``W`` stays, to rounding. An ``S`` of zeros stays."""
        layer, carry = self.layer, self.carry
        S = carry.read("S", layer.S)
        factor = self.shrinkage.factor(whole(S).abs().flatten(), threshold)
        S = S * placed(factor.unflatten(0, S.shape), S)
        norm = torch.linalg.vector_norm(S)
        scale = torch.where(norm > 0, norm / math.sqrt(S.numel()), 1)
        carry.write("S", layer.S, S / scale)
        carry.write("A", layer.A, carry.read("A", layer.A) * scale)

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

    def within(self, model: nn.Module) -> FactoredPart | None:
        """The same layer of another model; None where that has none."""
        layer = kronecker_layers(model).get(self.name)
        return None if layer is None else replace(self, layer=layer, carry=Carry())

    def keep(self, alive: Tensor) -> None:
        """Zero ``S`` everywhere else."""
        self.layer.S.mul_(placed(alive.unflatten(0, self.layer.S.shape), self.layer.S))
