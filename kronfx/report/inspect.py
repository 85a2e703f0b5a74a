"""``kronfx.inspect``: a plan, a dense, factored or folded model, an ONNX file or an export -> Report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from kronfx import deploy, price
from kronfx.errors import InspectError, KronfxError
from kronfx.files import PathLike
from kronfx.graph.discover import discover
from kronfx.layers import FOLDED, KroneckerConv, folded_layers, full_precision, kronecker_layers
from kronfx.page import Curve, Gain, Page, gains
from kronfx.records import EXPECTED_ROWS, PRUNED, Plan, Pruned
from kronfx.report.curves import curves_of
from kronfx.report.report import Layer, Look, Report
from kronfx.report.sheets import of_model, proof, sheet
from kronfx.train import History

Subject = nn.Module | Plan | deploy.ExportReport | PathLike


@full_precision()
def inspect(subject: Subject, *, history: History | PathLike | None = None) -> Report:
    """Look at a plan, a model (dense, factored, folded or mixed), an ONNX file or the report of an export: one row a
    linear map.

    Zero blocks are counted on ``W`` itself: the share of its blocks that are exactly zero. ``history``, of the training
    that led here, adds its curves to the page. Raises InspectError, and TrainError where the history does not read.
    """
    report = _looked_at(subject)
    return report if history is None else replace(report, look=_Trained(report.look, *curves_of(history)))


@dataclass(frozen=True, slots=True)
class _Trained:
    """A look with the curves of a training."""

    look: Callable[[], Look]
    curves: tuple[Curve, ...]
    figures: tuple[Curve, ...]

    def __call__(self) -> Look:
        seen = self.look()
        return replace(seen, page=replace(seen.page, curves=self.curves, figures=self.figures))


@dataclass(frozen=True)
class _InFile:
    """A look at the weights of an ONNX file, taken once, when somebody asks."""

    summary: deploy.OnnxSummary

    def __call__(self) -> Look:
        return self._look

    @cached_property
    def _look(self) -> Look:
        try:
            expected = deploy.forecast(self.summary.path)
        except KronfxError as refused:  # kronfx cannot look into them
            return Look(replace(deploy.page_of_file(self.summary, None), notes=(str(refused),)))
        return Look(deploy.page_of_file(self.summary, expected), expected)


def _looked_at(subject: Subject) -> Report:
    if isinstance(subject, Plan):
        return _of_plan(subject)
    if isinstance(subject, nn.Module):
        return _of_model(subject)
    if isinstance(subject, deploy.ExportReport):
        return _of_export(subject)
    if isinstance(subject, (str, os.PathLike)):
        return _of_onnx(Path(subject))
    raise InspectError(
        "",
        f"a {type(subject).__name__}",
        "a Plan, a torch.nn.Module, an ONNX file's path or the report of an export",
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
    sheets = tuple(
        replace(sheet(layer, c.site.taps), proof=proof(c), work=c.multiply_adds(plan.rows) // plan.rows)
        for layer, c in zip(layers, plan.choices)
    )
    summed = gains(sheets)
    if plan.model_parameters:
        summed = (Gain("parameters of the model", "", plan.planned_parameters, plan.model_parameters), *summed)
    title = f"Plan of {len(plan.sites)} layers"
    page = Page(title, "plan", sheets, summed, refusals=plan.refusals, notes=plan.notes, command=_command("plan"))
    return Report("plan", layers, plan.refusals, look=Look(page))


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
            None if layer.S.is_meta else layer.zero_blocks(),
            layer.blocks // layer.grid.blocks,
            layer.energy,
            layer.predicted_seconds,
            layer.measured_seconds,
            None if layer.stack or isinstance(layer, KroneckerConv) else price.gain(layer.grid, EXPECTED_ROWS),
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
            None if layer.weight.is_meta else layer.zero_blocks(),
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
    layers = (*factored, *folded, *dense)
    sheets = of_model(model, layers)
    summed = (Gain("trainable parameters", "", trainable), *gains(sheets))
    page = Page(title, _state(layers), sheets, summed, refusals=refusals, command=_command("model"))
    return Report(title, layers, refusals, parameters=trainable, look=Look(page))


def _state(layers: Sequence[Layer]) -> str:
    """What a model is: the first of these that any of its layers is."""
    states = {layer.state for layer in layers}
    return f"{next((state for state in ('factored', 'folded') if state in states), 'dense')} model"


def _entries(layer: deploy.ExportedLayer) -> int:
    """How many of its numbers the file stores."""
    return layer.m * layer.n * layer.bytes // max(1, layer.dense_bytes)


def _of_onnx(path: Path) -> Report:
    summary = deploy.read(path)
    return _of_file(path, summary.layers, summary.bytes, _InFile(summary))


def _of_export(report: deploy.ExportReport) -> Report:
    return _of_file(Path(report.path), report.layers, report.bytes, Look(deploy.page_of_export(report)))


def _of_file(path: Path, rows: Sequence[deploy.ExportedLayer], size: int, look: Callable[[], Look]) -> Report:
    layers = tuple(
        Layer(e.site, "onnx", e.m, e.n, e.block, rank, e.lowering, _entries(e), e.zero_blocks)
        for e, rank in ((e, None if e.factored is None else e.factored.rank) for e in rows)
    )
    return Report(path.name, layers, bytes=size, look=look, file=path)


def _command(name: str) -> str:
    return f'kx.inspect({name}).to_html("report.html")'
