"""Blocks of a trained model's maps become zero, chosen by what they do, and what is left is set anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.compress.calibration import Fisher
from kronfx.compress.candidates import Ranked, choice, ranked
from kronfx.compress.criteria import CRITERIA
from kronfx.compress.idle import Kept, settled
from kronfx.compress.maps import Map, add_to, precise
from kronfx.compress.moments import Moments
from kronfx.compress.options import PruneOptions
from kronfx.compress.prefix import Forwards, Survivors, refit_on_prefix
from kronfx.compress.record import Record
from kronfx.compress.refit import damped, masked, refitted
from kronfx.compress.samples import Samples
from kronfx.errors import PruneError
from kronfx.progress import bar
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
    fisher = partial(Fisher, options.loss, options.seed) if CRITERIA[options.how].gradients else None
    samples = Samples(model, batches, options.memory, fisher)
    found, rows = [], 0
    with bar("ranking", len(maps)) as begin:
        for record in samples.records(maps):
            begin(record.map.site.name)
            found.append(ranked(record, options))
            rows = max(rows, *(moments.rows for moments in record.moments))
    refusals = tuple(one.refusal for one in found if one.reason)
    if len(refusals) == len(found):
        remedy = "look at kronfx.plan(model), and at what the batches make the model do"
        raise PruneError(found[0].site.label, found[0].reason, "one map at least that can be pruned", remedy)
    keeps = [_chosen(copy, found, batches, options, fisher) for copy in copies]
    survivors: list[list[Survivors]] = [[] for _ in copies]
    layers: list[list[PrunedLayer]] = [[] for _ in copies]
    names = {parameter: name for name, parameter in model.named_parameters()}
    with bar("setting anew", len(maps)) as begin:
        for number, record in enumerate(samples.records(maps)):
            begin(record.map.site.name)
            for copy, kept, left, done in zip(copies, keeps, survivors, layers):
                if kept[number]:
                    bias = None if record.bias is None else copy.model.get_parameter(names[record.bias])
                    left.append(Survivors(record.map, copy.maps[number], kept[number], record.bias, bias))
                    done.append(_written(record, left[-1], found[number].zero_blocks, options))
    if options.refit == "prefix" and CRITERIA[options.how].refits:
        for copy, left in zip(copies, survivors):
            trained, pruned = (Forwards(each, batches, options.loss) for each in (model, copy.model))
            refit_on_prefix(trained, pruned, left, len(batches), options.damping)
    return [
        Pruned(copy.target, options.how, options.shares, samples.weighed_by, rows, tuple(done), refusals)
        for copy, done in zip(copies, layers)
    ]


def _chosen(
    copy: Copy,
    found: Sequence[Ranked],
    batches: Sequence[Any],
    options: PruneOptions,
    fisher: Callable[[], Fisher] | None,
) -> Kept:
    """Of every map the blocks that stay. What feeds emptied maps is looked for where gradients are."""
    choose = partial(choice, target=copy.target, shares=options.shares)
    if fisher is None:
        return choose(found)
    return settled(
        copy.maps,
        found,
        choose,
        lambda: Samples(copy.model, batches[:1], options.memory, fisher).records(copy.maps),
    )


def _written(record: Record, survivors: Survivors, before: int, options: PruneOptions) -> PrunedLayer:
    """Write what stays of a map into its copy, and into the bias the mean of what went; ``before`` blocks were zero."""
    subject, bias, centred = survivors.pruned, survivors.bias, record.bias is not None
    dense = record.map.weights
    weights = [
        _less(W, moments, stays, centred, subject.grid, options)
        for W, moments, stays in zip(dense, record.moments, survivors.kept)
    ]
    lost = whole = 0.0
    subject.write(torch.stack([weight.to(dense.device) for weight in weights]))
    for W, sparse, moments in zip(dense, subject.weights, record.moments):
        H = moments.second(centred)
        W, difference = W.to(H), (W - sparse).to(H)
        lost += moments.rows * float(((difference @ H) * difference).sum())
        whole += moments.rows * float(((W @ H) * W).sum())
        if bias is not None and CRITERIA[options.how].refits:
            add_to(bias, precise(bias.detach()), difference @ moments.mean)
    blocks, zero = (
        sum(int(count(stays).sum()) for stays in survivors.kept) for count in (torch.ones_like, torch.logical_not)
    )
    site, share = subject.site, lost / whole if whole else 0.0
    return PrunedLayer(site.name, site.m, site.n, subject.grid.block, blocks, zero, share, before)


def _less(
    W: Tensor, moments: Moments, kept: Tensor, centred: bool, grid: KroneckerShape, options: PruneOptions
) -> Tensor:
    """``W [m, n]`` without the blocks that go."""
    W, kept = W.to(moments.xx.device), kept.to(moments.xx.device)
    if not CRITERIA[options.how].refits or not moments.rows:
        return masked(W, kept, grid)
    H = damped(moments.second(centred), options.damping)
    return refitted(W @ H, H, kept, grid)
