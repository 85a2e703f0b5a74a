"""The factored layers of a model set to the factors that fit what their maps saw in the trained one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.compress.factors import fitted_factors
from kronfx.compress.maps import Map, add_to, precise
from kronfx.compress.record import Record
from kronfx.compress.refit import damped
from kronfx.compress.samples import Samples
from kronfx.kron import materialize
from kronfx.layers import KroneckerLinear
from kronfx.progress import bar

DAMPING = 0.01  # of the mean diagonal of H
MEMORY = 2**31  # bytes of sums over the batches that are kept at once


@dataclass(frozen=True, eq=False, slots=True)
class Fitted:
    """``S [stack, m1, n1], A [stack, r, m1, n1], B [stack, r, m2, n2]`` of a site, and how far the bias of this
    name moves, ``[m]``."""

    factors: tuple[Tensor, Tensor, Tensor]
    bias: str | None
    moved: Tensor

    @torch.no_grad()
    def put(self, layer: KroneckerLinear, model: nn.Module) -> None:
        """Into the layer, and into the bias of its model."""
        for parameter, value in zip((layer.S, layer.A, layer.B), self.factors):
            parameter.copy_(value.reshape(parameter.shape))
        if self.bias is not None:
            bias = model.get_parameter(self.bias)
            add_to(bias, precise(bias.detach()), self.moved)


def fit_factors(model: nn.Module, maps: Mapping[Map, int], batches: Sequence[Any]) -> dict[str, Fitted]:
    """For each map, and its rank, the factors that fit best to what it gets in the batches, by the site's name.

    One is missing where no product with the map was seen. Takes ``8 n^2`` bytes a map. Raises PruneError.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    found: dict[str, Fitted] = {}
    with bar("fitting", len(maps)) as begin:
        for record in Samples(model, batches, MEMORY).records(list(maps)):
            begin(record.map.site.name)
            if record.reason(gradients=False) is None:
                bias = None if record.bias is None else names[record.bias]
                found[record.map.site.name] = _fitted(record, maps[record.map], bias)
    return found


def _fitted(record: Record, rank: int, bias: str | None) -> Fitted:
    """Every member of a stack by itself."""
    each, grid = [], record.map.grid
    moved = torch.zeros(record.map.site.m, dtype=torch.float64)
    for W, moments in zip(record.map.weights, record.moments):
        H = damped(moments.second(bias is not None), DAMPING)
        each.append(fitted_factors(W.to(H), H, grid, rank))
        difference = W.to(H) - materialize(*each[-1])[: W.shape[0], : W.shape[1]]
        moved = difference @ moments.mean
    S, A, B = (torch.stack(values) for values in zip(*each))
    return Fitted((S, A, B), bias, moved)
