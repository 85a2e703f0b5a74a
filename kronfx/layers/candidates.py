"""Several factored layers of one site, side by side, while training decides which block shape it should have."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import reduce
from operator import add
from typing import Any, cast

import torch
from torch import Tensor, nn

from kronfx.layers.convolution import Convolution, KroneckerConv
from kronfx.layers.linear import KroneckerLinear
from kronfx.layers.writes import computed
from kronfx.records import KroneckerShape

CHILD = "kronecker"  # what holds factored layers inside another module; no part of a site's name


class KroneckerCandidates(nn.Module):
    """``y = sum_k x W^(k)T + bias``, ``W = sum_k W^(k)``, each ``W^(k)`` factored with a block shape of its own (later
    version of the paper, Eq. 7). Candidates have no bias: the site's is here.

    Candidates are dropped one after another, and the last one is what this module becomes, in place: parents, graphs,
    hooks and the user's own variables go on holding it, an ordinary factored layer then.
    """

    bias: nn.Parameter | None

    def __init__(self, candidates: Sequence[KroneckerLinear]) -> None:
        super().__init__()
        self.add_module(CHILD, nn.ModuleList(candidates))
        self.register_parameter("bias", None)

    @property
    def candidates(self) -> tuple[KroneckerLinear, ...]:
        """Those still there, in the order of the plan."""
        return tuple(cast(nn.ModuleList, self._modules[CHILD]))  # type: ignore[arg-type]

    @torch.no_grad()
    def drop(self, losers: Collection[KroneckerLinear]) -> None:
        """Take these candidates out, their parameters with them; at least one has to stay."""
        left = [layer for layer in self.candidates if layer not in losers]
        setattr(self, CHILD, nn.ModuleList(left))
        if len(left) == 1:
            self._become(left[0])

    def _become(self, layer: KroneckerLinear) -> None:
        plain = vars(nn.Module())  # what every module has; this one's stays: hooks, mode
        vars(self).update({name: value for name, value in vars(layer).items() if name not in plain})
        self._modules.clear()
        parameters = {**layer._parameters, "bias": self.bias}
        self._parameters.clear()  # so that they come in the order of a model built without candidates
        self._parameters.update(parameters)
        self.__class__ = self.decided(type(layer))  # type: ignore[assignment]

    @staticmethod
    def decided(kind: type[KroneckerLinear]) -> type[KroneckerLinear]:
        """The class of what this becomes, where the last candidate is of this class."""
        return kind

    @property
    def shape(self) -> Any:
        """The block grid; of candidates that stand for a weight, the weight's shape."""
        return self.grid

    @property
    def grid(self) -> KroneckerShape:
        """The finest grid: the blocks of every ``W^(k)`` are whole numbers of its blocks, those beyond ``W`` aside."""
        shapes = [layer.grid for layer in self.candidates]
        m2, n2 = math.gcd(*(shape.m2 for shape in shapes)), math.gcd(*(shape.n2 for shape in shapes))
        return KroneckerShape.covering(self.out_features, self.in_features, (m2, n2))

    @property
    def convolution(self) -> Convolution | None:
        """What kind of convolution the candidates are, if they are some."""
        first = self.candidates[0]
        return first.convolution if isinstance(first, KroneckerConv) else None

    @property
    def in_features(self) -> int:
        """``n``."""
        return self.candidates[0].in_features

    @property
    def out_features(self) -> int:
        """``m``."""
        return self.candidates[0].out_features

    @property
    def weight(self) -> Tensor:
        """``W = sum_k W^(k)``, materialized now; differentiable with respect to all factors."""
        return computed(reduce(add, (layer.weight for layer in self.candidates)))

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., n] -> [..., m]``, of a convolution ``[N, channels, ...] -> [N, m, ...]``, each its own way."""
        y: Tensor = reduce(add, (layer(x) for layer in self.candidates))
        if self.bias is None:
            return y
        bias, convolution = self.bias.to(y.dtype), self.convolution
        return y + (bias if convolution is None else bias.unflatten(0, (-1, *(1 for _ in convolution.stride))))

    def extra_repr(self) -> str:
        """Size and bias, for ``print(model)``; the candidates follow."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


FactoredLayer = KroneckerLinear | KroneckerCandidates


def candidates_of(layer: FactoredLayer) -> tuple[KroneckerLinear, ...]:
    """The candidates of a site; of one that is decided, its layer."""
    return layer.candidates if isinstance(layer, KroneckerCandidates) else (layer,)
