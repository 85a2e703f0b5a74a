"""The public verbs: each composes stages that do not know each other.

``plan`` needs the sites that the graph stage finds and the shapes that the planner chooses, ``export_onnx`` folds
before it deploys; the stages themselves never import one another, so this is the one place where they meet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn
from typing_extensions import Unpack

from kronfx import compress, deploy, records
from kronfx import graph as graph_stage
from kronfx.clock import rates_here
from kronfx.clock import tune as tune_layers
from kronfx.cost import cheapest
from kronfx.energy import Energies
from kronfx.errors import ExportError, FactorizeError, PlanError, PruneError, said_by, warn
from kronfx.graph.swap import copied
from kronfx.layers import FactoredLayer, KroneckerConv, KroneckerLinear, factored_sites, full_precision, require_module
from kronfx.options import keywords
from kronfx.planner import PlanKeywords, PlanOptions, plan_sites
from kronfx.planner.wishes import selected
from kronfx.records import KroneckerShape
from kronfx.tables import abbreviated

Start = Literal["random", "nearest", "calibrated"]


@keywords(PlanOptions)
@full_precision()
def plan(model: nn.Module, *, batches: Iterable[Any] | None = None, **wishes: Unpack[PlanKeywords]) -> records.Plan:
    """Choose what every linear map ``W [m, n]`` of a model becomes: a block shape, a rank and an evaluation.

    With ``batches`` of what a trained model is called with (tensors, tuples of arguments or dicts of keyword arguments;
    a few dozen), the energy of a choice is that of the map's outputs on them: the share of ``tr(W H W^T)``,
    ``H = E[x x^T]``, that the factors of ``init="calibrated"`` keep. Budgets then spend where it matters, and shapes,
    plain low rank among them, are chosen by what the maps see. Takes the fits of several shapes and ranks a map.
    Raises PlanError.
    """
    with said_by(PlanError, PruneError):
        return _planned(model, PlanOptions(**wishes), None if batches is None else compress.listed(batches))


def _planned(model: nn.Module, options: PlanOptions, batches: Sequence[Any] | None) -> records.Plan:
    require_module(model, PlanError)
    found = graph_stage.discover(model, options.untie)
    branches = records.Branches()
    if options.zero_start is not None:
        branches = graph_stage.branches(model, found.matches, options.example_inputs)
    return plan_sites(
        found.sites,
        found.refusals,
        options,
        branches=branches,
        types=_types(found),
        model_parameters=sum(p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p)),
        energies=_energies(model, found, options, batches),
        clock=_clock(options) if found.sites else None,
    )


def _energies(
    model: nn.Module, found: graph_stage.Discovery, options: PlanOptions, batches: Sequence[Any] | None
) -> Energies | compress.OutputEnergies | None:
    """Those of the outputs where there are batches, those of the weights where they are asked for; else none.

    Raises PlanError, PruneError.
    """
    if batches is None and not options.energy:
        return None
    weights = Energies({match.site.name: match.matrix for match in found.matches})
    if batches is None:
        return weights
    wanted, running = selected(found.sites, _types(found), options.include, options.exclude), copied(model, PlanError)
    matches = (m for m in graph_stage.discover(running, options.untie).matches if m.site.name in wanted)
    maps = [_map(match, KroneckerShape(match.site.m, match.site.n, 1, 1)) for match in matches]
    return compress.OutputEnergies(running, maps, batches, weights)


def _types(found: graph_stage.Discovery) -> dict[str, type]:
    """The classes of the modules that the sites live in."""
    return {match.site.name: type(match.owner) for match in found.matches}


def _map(match: graph_stage.Match, grid: KroneckerShape) -> compress.Map:
    return compress.Map(match.site, match.owner, match.target, grid, match.transposed, match.convolution)


def _clock(options: PlanOptions) -> records.Rates | None:
    """What predicts a training step: the rates asked for, else this machine's, but where multiply-adds are budgeted."""
    return rates_here() if options.rates is None and options.max_flops is None else options.rates


@keywords(PlanOptions)
@full_precision()
def factorize(
    model: nn.Module,
    plan: records.Plan | None = None,
    *,
    init: Start = "random",
    batches: Iterable[Any] | None = None,
    inplace: bool = False,
    tune: bool = False,
    **plan_options: Unpack[PlanKeywords],
) -> nn.Module:
    """Rewrite the linear maps of a model into Kronecker-factored ones, ready to train: the one call.

    Without a ``plan``, one is made from the options below (and, within a budget, from the ``batches``), as :func:`plan`
    does. ``init="random"`` starts anew, with
    the spread of the weights it replaces; ``init="nearest"`` starts from the nearest factors of the weights, and
    ``init="calibrated"`` from those whose outputs come nearest to the weights' outputs on the inputs that each map gets
    while a copy of the model runs the ``batches``: ``min tr((W - W') H (W - W')^T)``, ``H = E[x x^T]``, by alternating
    least squares, the bias taking the mean. A batch is what the model is called with: a tensor, a tuple of arguments or
    a dict of keyword arguments. A weight that is zero is zero after each of these, and learns. ``zero_start`` is about
    random starts: with the others the weights are what they were, and a plan's marks do nothing. ``tune=True`` lets the
    clock decide how each layer is evaluated, on the rows that ``example_inputs`` show, as :func:`kronfx.tune` does.

    The model passed in is left untouched unless ``inplace=True``; use the returned one in either case. What was
    rewritten and what was refused is in ``kronfx.inspect(result)``. Raises PlanError, FactorizeError, TuneError.
    """
    _require_batches(init, batches)
    require_module(model, FactorizeError)
    graph_stage.require_unshared(model, FactorizeError)
    examples = plan_options.get("example_inputs")
    if tune and examples is None:
        remedy = "pass example_inputs=, which show how many rows each layer sees"
        raise FactorizeError("", "tune=True without example_inputs", "inputs as the model takes them", remedy)
    with said_by(FactorizeError, PruneError):
        kept = None if batches is None else compress.listed(batches)
    beside = [name for name in plan_options if not (tune and name == "example_inputs")]
    if plan is not None and beside:
        found = f"a plan and the options {', '.join(beside)}"
        raise FactorizeError("", found, "one of the two", "put the options into kronfx.plan")
    if plan is None:
        options = PlanOptions(**(plan_options if init == "random" else _trained(plan_options)))
        budgeted = options.max_params is not None or options.max_flops is not None
        plan = _planned(model, options, kept if budgeted else None)
    if not isinstance(plan, records.Plan):
        raise FactorizeError("", f"a plan of type {type(plan).__name__}", "a kronfx Plan", "make one with kronfx.plan")
    if kept is not None:
        rewritten = _calibrated(model, plan, kept, inplace)
    else:
        rewritten = graph_stage.factorize(model, plan, cast(graph_stage.Init, init), inplace)
    if not plan.choices:
        reasons = {refusal.reason for refusal in plan.refusals} or {"the model has no weight of two or more dimensions"}
        warn(f"kronfx.factorize rewrote nothing: {'; '.join(sorted(reasons))}")
    elif tune:
        tune_layers(rewritten, examples)
    return rewritten


def _require_batches(init: Start, batches: Iterable[Any] | None) -> None:
    if (init == "calibrated") != (batches is not None):
        found = f"init={init!r} {'without' if batches is None else 'with'} batches"
        remedy = "pass a few dozen of what the model is called with, or another init"
        raise FactorizeError("", found, "batches for init='calibrated', and for no other", remedy)


def _calibrated(model: nn.Module, plan: records.Plan, batches: Sequence[Any], inplace: bool) -> nn.Module:
    """The model rewritten, with the factors that fit its own inputs. Raises FactorizeError."""
    if len(plan.sites) < len(plan.choices):
        found, remedy = "a plan with candidates", "choose one block for each site, or init='nearest'"
        raise FactorizeError("", found, "one choice a site for init='calibrated'", remedy)
    running, choices = copied(model, FactorizeError), {choice.site.name: choice for choice in plan.choices}
    maps = {
        _map(m, choice.shape): choice.rank
        for m in graph_stage.discover(running, untie=True).matches
        if (choice := choices.get(m.site.name)) is not None
    }
    with said_by(FactorizeError, PruneError):
        fitted = compress.fit_factors(running, maps, batches)
    rewritten = graph_stage.factorize(model, plan, "nearest", inplace)
    for name, layer in factored_sites(rewritten).items():
        if name in fitted and name in choices and isinstance(layer, KroneckerLinear):
            fitted[name].put(layer, rewritten)
    left = choices.keys() - fitted.keys()
    if left:
        warn(f"kronfx.factorize: no batch reached {abbreviated(sorted(left))}, which have their nearest factors")
    return rewritten


def _trained(plan_options: PlanKeywords) -> PlanKeywords:
    """The options where weights are kept: nothing starts at zero. Raises FactorizeError where it was to."""
    if plan_options.get("zero_start") is not None:
        found = f"zero_start={plan_options.get('zero_start')!r} with an init that keeps the weights"
        raise FactorizeError("", found, "init='random' for a start at zero", "leave one of the two out")
    return {**plan_options, "zero_start": None}


@keywords(deploy.ExportOptions, first=("lowering", "verify", "batch_sizes", "dynamic_shapes"))
@full_precision()
def export_onnx(
    model: nn.Module, path: str | Path, example_inputs: Any, **wishes: Unpack[deploy.ExportKeywords]
) -> deploy.ExportReport:
    """Write a factored or folded model as one ONNX file of standard operators that computes the same, verified.

    ``example_inputs`` are a tensor, a tuple of tensors or a dict of keyword tensors; the batch axis stays dynamic. The
    model is left untouched; the file is written whole or not at all. Raises ExportError, VerificationError, and
    FoldError where factors are not finite.
    """
    require_module(model, ExportError)
    options = deploy.ExportOptions(**wishes)
    factored = factored_sites(model)
    if options.lowering == "factors" and not factored:
        remedy = "export the factored model itself, not its fold"
        raise ExportError("", "no factored layer in this model", "factors for lowering='factors'", remedy)
    # The factors of candidates, which are one product with their weights' sum, are of no use to a file.
    decided = {site: layer for site, layer in factored.items() if isinstance(layer, KroneckerLinear)}
    return deploy.export(
        graph_stage.fold_sites(copied(model, ExportError), _to_fold(factored, options.lowering)),
        path,
        example_inputs,
        options,
        trained={site: (layer.factors, _deployed(layer)) for site, layer in decided.items()},
        reference=model,
    )


def _deployed(layer: KroneckerLinear) -> records.Evaluation:
    """How a file may evaluate it: as it was trained, but where that forms ``W`` for its gradients' sake, which no file
    has, by the fewest multiply-adds over as many rows as a plan expects."""
    return (
        cheapest(layer.grid, layer.rank, PlanOptions().rows) if layer.evaluation == "materialize" else layer.evaluation
    )


def _to_fold(factored: dict[str, FactoredLayer], lowering: str) -> set[str]:
    """All sites but convolutions that the exporter can write factored: with more than one tap to their kernels, those
    are no products of matrices."""
    if lowering in ("dense", "blocks"):
        return set(factored)
    convolutions = ((name, layer) for name, layer in factored.items() if isinstance(layer, KroneckerConv))
    kept = {name for name, layer in convolutions if layer.taps > 1 and layer.evaluation != "materialize"}
    return set(factored) - kept
