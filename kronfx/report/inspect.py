"""``kronfx.inspect``: a plan, a dense, factored or folded model, or an ONNX file -> Report."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from kronfx import deploy, price
from kronfx.errors import InspectError
from kronfx.graph.discover import discover
from kronfx.layers import FOLDED, KroneckerConv, folded_layers, full_precision, kronecker_layers
from kronfx.records import PRUNED, Plan, Pruned
from kronfx.report.report import Layer, Report

ROWS = 512  # where nothing says how many: what a plan expects


@full_precision()
def inspect(subject: nn.Module | Plan | str | os.PathLike[str]) -> Report:
    """Look at a plan, a model (dense, factored, folded or mixed) or an ONNX file: one row a linear map.

    Zero blocks are counted on ``W`` itself: the share of its blocks that are exactly zero. Raises InspectError.
    """
    if isinstance(subject, Plan):
        return _of_plan(subject)
    if isinstance(subject, nn.Module):
        return _of_model(subject)
    if isinstance(subject, (str, os.PathLike)):
        return _of_onnx(Path(subject))
    raise InspectError(
        "",
        f"a {type(subject).__name__}",
        "a Plan, a torch.nn.Module or an ONNX file's path",
        "pass one of these",
    )


def _of_plan(plan: Plan) -> Report:
    layers = tuple(
        Layer(
            c.site.name,
            "planned",
            c.site.m,
            c.site.n,
            c.shape.block,
            c.rank,
            c.evaluation,
            c.parameters,
            stack=c.site.stack,
            predicted=c.seconds,
            gain=price.gain(c.shape, plan.rows) if c.site.taps == c.site.stack == 1 else None,
        )
        for c in plan.choices
    )
    return Report("plan", layers, plan.refusals)


def _of_model(model: nn.Module) -> Report:
    factored = [
        Layer(
            name,
            "factored",
            layer.out_features,
            layer.in_features,
            layer.grid.block,
            layer.rank,
            layer.running,
            layer.S.numel() + layer.A.numel() + layer.B.numel(),
            layer.zero_blocks(),
            layer.blocks // layer.grid.blocks,
            layer.energy,
            layer.predicted_seconds,
            layer.measured_seconds,
            None if layer.stack or isinstance(layer, KroneckerConv) else price.gain(layer.grid, ROWS),
        )
        for name, layer in kronecker_layers(model).items()
    ]
    pruned: Pruned | None = vars(model).get(PRUNED)
    kept = {} if pruned is None else {layer.site: 1 - layer.lost for layer in pruned.layers}
    folded = [
        Layer(
            name,
            "folded",
            layer.weight.shape[-2],
            layer.weight.shape[-1],
            layer.shape.block,
            None,
            "linear",
            layer.weight.numel(),
            layer.zero_blocks(),
            layer.blocks // layer.shape.blocks,
            kept.get(name),
        )
        for name, layer in folded_layers(model).items()
    ]
    folded_names = {layer.site for layer in folded}
    found = discover(model)
    dense = [
        Layer(
            match.site.name, "dense", match.site.m, match.site.n, stored=match.site.parameters, stack=match.site.stack
        )
        for match in found.matches
        if not (isinstance(match.owner, FOLDED) or match.site.name in folded_names)
    ]
    shown = folded_names | {layer.site for layer in factored}
    left = found.refusals if pruned is None else (*found.refusals, *pruned.refusals)
    refusals = tuple(refusal for refusal in left if refusal.site not in shown)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    title = type(model).__name__ if pruned is None else f"{type(model).__name__}, {pruned.how_it_was_done}"
    return Report(title, (*factored, *folded, *dense), refusals, parameters=trainable)


def _entries(layer: deploy.ExportedLayer) -> int:
    """How many of its numbers the file stores."""
    return layer.m * layer.n * layer.bytes // max(1, layer.dense_bytes)


def _of_onnx(path: Path) -> Report:
    summary = deploy.read(path)
    layers = tuple(
        Layer(e.site, "onnx", e.m, e.n, e.block, None, e.lowering, _entries(e), e.zero_blocks) for e in summary.layers
    )
    return Report(path.name, layers, bytes=summary.bytes)
