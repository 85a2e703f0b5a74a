"""The groups of a dense weight; which weights of a model a baseline acts on, and how each is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor, nn

from kronfx import kron
from kronfx.errors import TrainError
from kronfx.layers import named_parameters, require_module, site_name
from kronfx.records import KroneckerShape
from kronfx.train.options import by_name, value_of
from kronfx.train.parts.carry import Carry
from kronfx.train.parts.groups import Groups
from kronfx.train.parts.part import Part
from kronfx.train.parts.shrinkage import Shrinkage
from kronfx.train.parts.tensors import placed, whole

GroupsWish = Groups | Mapping[str, Groups]


@dataclass(frozen=True)
class DensePart:
    """The tiles of a dense weight ``W [m, n]`` (a convolution's, unrolled), charged for their Frobenius norms."""

    name: str
    weight: nn.Parameter
    shape: KroneckerShape
    shrinkage: Shrinkage
    carry: Carry = field(default_factory=Carry)

    @property
    def label(self) -> str:
        """The name and the size."""
        return f"{self.name} ({self.shape.m}x{self.shape.n})"

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
        factors = self._spread(self.shrinkage.factor(self.sizes(), threshold))
        W = self.carry.read("W", self.weight)
        self.carry.write("W", self.weight, W * placed(factors, W))

    def alive(self) -> Tensor:
        """The tiles with an entry that is not zero."""
        return self._tiles().ne(0).any(dim=-1)

    def present(self) -> Tensor:
        """The same."""
        return self.alive()

    def keep(self, alive: Tensor) -> None:
        """Zero the others."""
        self.weight.mul_(placed(self._spread(alive), self.weight))

    def within(self, model: nn.Module) -> DensePart | None:
        """The weight of that name in another model; None where it has none, or one of another size."""
        weight = {site_name(path): parameter for path, parameter in named_parameters(model)}.get(self.name)
        if weight is None or weight.shape != self.weight.shape:
            return None
        return replace(self, weight=weight, carry=Carry())

    def _tiles(self) -> Tensor:
        """``[m1 n1, m2 n2]``."""
        tiles: Tensor = kron.blocks_of(whole(self.weight.detach()).flatten(1), self.shape).flatten(-2).flatten(0, 1)
        return tiles

    def _spread(self, groups: Tensor) -> Tensor:
        """``[G]`` over the entries of ``W``."""
        grid = groups.unflatten(0, (self.shape.m1, self.shape.n1))
        return kron.over_entries(grid, self.shape).reshape(self.weight.shape)


def dense_parts(model: nn.Module, groups: GroupsWish, shrinkage: Shrinkage) -> dict[str, Part]:
    """The weights of every ``nn.Linear``, each cut by ``groups``; or, of a mapping from names or globs to groups, the
    weights of two or more dimensions that it names (an exact name wins over a glob, else the last one). A weight that
    several modules share counts once.

    Raises TrainError: no such weight, a name that is no weight's, a weight that cannot be cut so, a way to cut that
    is none.
    """
    require_module(model, TrainError)
    wishes = groups if isinstance(groups, Mapping) else dict.fromkeys(_linear(model), groups)
    weights = {site_name(path): p for path, p in named_parameters(model) if p.ndim > 1}
    if not wishes:
        raise TrainError("", "no nn.Linear in the model", "at least one", "name the weights: groups={'conv1': Rows()}")
    parts: dict[str, Part] = {}
    for name, cut in by_name("groups", wishes, list(weights)).items():
        weight = weights[name]
        m, n = weight.shape[0], prod(weight.shape[1:])
        label = f"{name} ({m}x{n})"
        grid = value_of("groups", cut, method="grid", example="Blocks(2, 2)").grid(label, m, n)
        parts[name] = DensePart(name=name, weight=weight, shape=grid, shrinkage=shrinkage)
    return parts


def _linear(model: nn.Module) -> list[str]:
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    return [site_name(path) for path, parameter in named_parameters(model) if id(parameter) in weights]
