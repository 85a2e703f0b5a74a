"""Blocks of a trained model's maps become zero, chosen by what they do, and what is left is set anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.compress.calibration import bar
from kronfx.compress.candidates import choice, ranked
from kronfx.compress.criteria import CRITERIA
from kronfx.compress.maps import Map, precise
from kronfx.compress.moments import Moments
from kronfx.compress.options import PruneOptions
from kronfx.compress.record import Record
from kronfx.compress.refit import damped, masked, refitted
from kronfx.compress.samples import Samples
from kronfx.errors import PruneError
from kronfx.records import KroneckerShape, Pruned, PrunedLayer


@dataclass(frozen=True, eq=False, slots=True)
class Copy:
    """A copy of the model that is to be pruned; its maps are those of the model that runs, in the same order."""

    model: nn.Module
    maps: Sequence[Map]
    target: float | dict[str, float]


def prune(
    model: nn.Module, maps: Sequence[Map], batches: Sequence[Any], options: PruneOptions, copies: Sequence[Copy]
) -> list[Pruned]:
    """Prune every copy of the trained ``model``, which runs the batches; what was done to each of them.

    Raises PruneError.
    """
    samples = Samples(model, batches, options)
    found, rows = [], 0
    with bar("ranked", len(maps)) as advance:
        for record in samples.records(maps):
            found.append(ranked(record, options))
            rows = max(rows, *(moments.rows for moments in record.moments))
            advance(f"ranked: {record.map.site.name}")
    refusals = tuple(one.refusal for one in found if one.reason)
    if len(refusals) == len(found):
        remedy = "look at kronfx.plan(model), and at what the batches make the model do"
        raise PruneError(found[0].site.label, found[0].reason, "one map at least that can be pruned", remedy)
    keeps = [choice(found, copy.target, options.shares) for copy in copies]
    done: list[list[PrunedLayer]] = [[] for _ in copies]
    names = {parameter: name for name, parameter in model.named_parameters()}
    with bar("set anew", len(maps)) as advance:
        for number, record in enumerate(samples.records(maps)):
            for copy, kept, layers in zip(copies, keeps, done):
                if kept[number]:
                    bias = None if record.bias is None else copy.model.get_parameter(names[record.bias])
                    layers.append(_written(record, kept[number], copy.maps[number], bias, options))
            advance(f"set anew: {record.map.site.name}")
    return [
        Pruned(copy.target, options.how, options.shares, samples.weighed_by, rows, tuple(layers), refusals)
        for copy, layers in zip(copies, done)
    ]


def _written(
    record: Record, kept: Sequence[Tensor], subject: Map, bias: nn.Parameter | None, options: PruneOptions
) -> PrunedLayer:
    """Write what stays of a map into a copy of it, and into the bias the mean of what went."""
    weights = [
        _less(W, moments, stays, record.bias is not None, subject.grid, options)
        for W, moments, stays in zip(record.map.weights, record.moments, kept)
    ]
    lost = whole = 0.0
    subject.write(torch.stack([weight.to(subject.parameter.device) for weight in weights]))
    for W, sparse, moments in zip(record.map.weights, subject.weights, record.moments):
        H, difference = moments.second(record.bias is not None), (W - sparse).to(moments.xx.device)
        lost += moments.rows * float(((difference @ H) * difference).sum())
        whole += moments.rows * float(((W.to(H) @ H) * W.to(H)).sum())
        if bias is not None and CRITERIA[options.how].refits:
            with torch.no_grad():
                bias.copy_(precise(bias) + (difference @ moments.mean).to(precise(bias).device))
    site, zero = subject.site, sum(int((~stays).sum()) for stays in kept)
    share = lost / whole if whole else 0.0
    return PrunedLayer(site.name, site.m, site.n, subject.grid.block, sum(map(Tensor.numel, kept)), zero, share)


def _less(
    W: Tensor, moments: Moments, kept: Tensor, centred: bool, grid: KroneckerShape, options: PruneOptions
) -> Tensor:
    """``W [m, n]`` without the blocks that go."""
    W, kept = W.to(moments.xx.device), kept.to(moments.xx.device)
    if not CRITERIA[options.how].refits or not moments.rows:
        return masked(W, kept, grid)
    H = damped(moments.second(centred), options.damping)
    return refitted(W @ H, H, kept, grid)
