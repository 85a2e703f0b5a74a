"""The public verbs: each composes stages that do not know each other.

``plan`` needs the sites that the graph stage finds and the shapes that the planner chooses, ``export_onnx`` folds
before it deploys; the stages themselves never import one another, so this is the one place where they meet.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import TypedDict, Unpack

from kronfx import deploy, records
from kronfx import graph as graph_stage
from kronfx.energy import Energies
from kronfx.errors import ExportError, FactorizeError, PlanError
from kronfx.graph.swap import copied
from kronfx.layers import (
    FactoredLayer,
    KroneckerConv,
    KroneckerLinear,
    factored_sites,
    full_precision,
    require_module,
)
from kronfx.planner import BlockWish, Limit, Names, Overrides, Pair, RankWish, ZeroStart, plan_sites


class PlanOptions(TypedDict, total=False):
    """The keywords of :func:`plan`."""

    rank: RankWish
    block: BlockWish
    include: Names
    exclude: Names
    rows: int
    untie: bool
    objective: records.Objective
    min_block: Pair
    max_block: Pair
    multiple_of: Pair
    padding: float
    max_params: Limit
    max_flops: Limit
    energy: bool
    overrides: Overrides
    skip_unprofitable: bool
    rates: records.Rates | None
    zero_start: ZeroStart
    example_inputs: Any


ZERO_START: ZeroStart = "residual"


@full_precision()
def plan(
    model: nn.Module,
    *,
    rank: RankWish = None,
    block: BlockWish = None,
    include: Names = None,
    exclude: Names = None,
    rows: int = 512,
    untie: bool = False,
    objective: records.Objective = "params",
    min_block: Pair = None,
    max_block: Pair = None,
    multiple_of: Pair = None,
    padding: float = 0.0,
    max_params: Limit = None,
    max_flops: Limit = None,
    energy: bool = False,
    overrides: Overrides = None,
    skip_unprofitable: bool = False,
    rates: records.Rates | None = None,
    zero_start: ZeroStart = ZERO_START,
    example_inputs: Any = None,
) -> records.Plan:
    """Choose what every linear map ``W [m, n]`` of a model becomes: a block shape, a rank and an evaluation.

    What each becomes:

    - ``rank``: an integer, ``"full"`` (each layer's ``min(m1 n1, m2 n2)``, exact with ``init="nearest"``), or a mapping
      from layer names or globs to either. Sites it leaves out get 4; under a budget, what the budget chooses.
    - ``block``: ``(m2, n2)``, output rows first, or a mapping from names or globs to such pairs; where none is given,
      the integer program chooses the shape that is best by ``objective`` (see ``kronfx.solve``) at the wished rank,
      within ``min_block``, ``max_block``, ``multiple_of`` and, where a shape may be wider than the layer, ``padding``.
      A list of pairs in the place of one makes them candidates, side by side until ``kronfx.train.PatternSelection``
      has chosen.
    - ``overrides``: these options for layers by name or glob: ``{"encoder.*.fc1": {"rank": 8}}``.
    - ``rows``: the number of rows of ``x`` to expect (batch times sequence); it decides the evaluation, by
      multiply-adds or, with ``rates`` from ``kronfx.calibrate``, by predicted time.

    Which:

    - ``include``, ``exclude``: names, globs or module types of the sites to rewrite or to leave alone.
    - ``untie``: also rewrite a weight that several modules share; it becomes one weight each.
    - ``skip_unprofitable``: leave alone what would get bigger or slower, with both numbers in the reason.

    How it starts, where the start is random:

    - ``zero_start``: ``"residual"`` for the maps whose output is added to the stream it left (through nothing but
      dropout, a scale, a normalization right behind a convolution, and what moves entries about), or names, globs or
      types of such maps, or None. Of these the factor applied last (``b_first``: ``A``, else ``B``) starts at zero, all
      else as ever, so that the model starts as the identity along its streams; the plan lists them.
    - ``example_inputs``: branches are seen by running a copy without values on inputs guessed from its layers. Where no
      guess runs, the plan says so; a tensor, a tuple of tensors or a dict of keyword tensors helps (their values do not
      matter).

    Whole-model budgets choose shape and rank of every site at once (a multiple-choice knapsack, with its gap):

    - ``max_params``: parameters of the *whole model*, embeddings and biases too: a ratio in (0, 1] or a count.
    - ``max_flops``: multiply-adds of all its linear maps over ``rows`` rows each: a ratio or a count.
    - ``energy``: read the weights: print the share of ``||W||^2`` that each choice keeps, and let the budgets maximize
      its geometric mean over the maps. Otherwise no value of the model is touched, and what counts as kept is
      ``log(1 + r) / log(1 + min(m1 n1, m2 n2))``.

    Raises PlanError.
    """
    require_module(model, PlanError)
    found = graph_stage.discover(model, untie)
    return plan_sites(
        found.sites,
        found.refusals,
        rank=rank,
        block=block,
        include=include,
        exclude=exclude,
        rows=rows,
        objective=objective,
        min_block=min_block,
        max_block=max_block,
        multiple_of=multiple_of,
        padding=padding,
        max_params=max_params,
        max_flops=max_flops,
        overrides=overrides,
        skip_unprofitable=skip_unprofitable,
        rates=rates,
        zero_start=zero_start,
        branches=records.Branches()
        if zero_start is None
        else graph_stage.branches(model, found.matches, example_inputs),
        types={match.site.name: type(match.owner) for match in found.matches},
        model_parameters=sum(p.numel() for p in model.parameters() if not nn.parameter.is_lazy(p)),
        energies=Energies({match.site.name: match.matrix for match in found.matches}) if energy else None,
    )


@full_precision()
def factorize(
    model: nn.Module,
    plan: records.Plan | None = None,
    *,
    init: graph_stage.Init = "random",
    inplace: bool = False,
    **plan_options: Unpack[PlanOptions],
) -> nn.Module:
    """Rewrite the linear maps of a model into Kronecker-factored ones, ready to train: the one call.

    Without a ``plan``, one is made from ``plan_options`` (see :func:`plan`). ``init="random"`` starts anew, with the
    spread of the weights it replaces; ``init="nearest"`` starts from the nearest factors of the weights. A weight that
    is zero is zero after either, and learns. ``zero_start`` is about random starts: with ``"nearest"`` the weights are
    what they were, and a plan's marks do nothing. The model passed in is left untouched unless ``inplace=True``; use
    the returned one in either case. What was rewritten and what was refused is in ``kronfx.inspect(result)``. Raises
    PlanError, FactorizeError.
    """
    require_module(model, FactorizeError)
    if plan is not None and plan_options:
        raise FactorizeError(
            "",
            f"a plan and the options {', '.join(plan_options)}",
            "one of the two",
            "put the options into kronfx.plan",
        )
    if plan is None:
        plan = _plan(model, **(plan_options if init == "random" else _trained(plan_options)))
    if not isinstance(plan, records.Plan):
        raise FactorizeError("", f"a plan of type {type(plan).__name__}", "a kronfx Plan", "make one with kronfx.plan")
    rewritten = graph_stage.factorize(model, plan, init, inplace)
    if not plan.choices:
        reasons = {refusal.reason for refusal in plan.refusals} or {"the model has no weight of two or more dimensions"}
        warnings.warn(f"kronfx.factorize rewrote nothing: {'; '.join(sorted(reasons))}", stacklevel=2)
    return rewritten


def _trained(plan_options: PlanOptions) -> PlanOptions:
    """The options where weights are kept: nothing starts at zero. Raises FactorizeError where it was to."""
    if plan_options.get("zero_start") is not None:
        found = f"zero_start={plan_options.get('zero_start')!r} with init='nearest', which keeps the weights"
        raise FactorizeError("", found, "init='random' for a start at zero", "leave one of the two out")
    return {**plan_options, "zero_start": None}


_plan = plan  # the verb, where a parameter of factorize has its name


@full_precision()
def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any,
    *,
    lowering: str = "auto",
    verify: bool = True,
    batch_sizes: Sequence[int] = (1, 7, 32),
    dynamic_shapes: Any = None,
    tune: bool = True,
    rows: Sequence[int] = (1, 128),
    optimize_for: str = "latency",
    timings: deploy.Timings | str | Path | None = None,
) -> deploy.ExportReport:
    """Write a factored or folded model as one ONNX file of standard operators that computes the same, verified.

    - ``example_inputs``: a tensor, a tuple of tensors or a dict of keyword tensors; the batch axis stays dynamic
      (``dynamic_shapes`` takes over, as ``torch.export`` understands it, where that is not what the model needs).
    - ``lowering``: how each rewritten layer runs. ``"dense"``: one MatMul; the file stores the surviving blocks only,
      or the factors where they are smaller, and rebuilds the weight when the session loads. ``"blocks"``: products of
      the surviving blocks only. ``"factors"``: the factored evaluation itself (for a model that is not folded yet),
      save where that is to form the weight anyway. ``"auto"``: whichever is fastest, dense on a tie.
    - ``tune``: find that out by the clock, in onnxruntime on this machine, at ``rows`` rows of ``x`` (batch times
      sequence); without, by a cost model. ``optimize_for="size"`` takes the smallest instead, on a
      tie the one of less work.
    - ``timings``: those of an earlier report (or the file its ``to_json`` went to), so that nothing is timed twice.
    - ``verify``: run the file in onnxruntime against the model at ``batch_sizes`` before it gets its name.

    The model is left untouched; the file is written whole or not at all. Raises ExportError, VerificationError, and
    FoldError where factors are not finite.
    """
    require_module(model, ExportError)
    tuning = deploy.checked(lowering, tune, rows, optimize_for, timings)
    factored = factored_sites(model)
    if lowering == "factors" and not factored:
        remedy = "export the factored model itself, not its fold"
        raise ExportError("", "no factored layer in this model", "factors for lowering='factors'", remedy)
    # The factors of candidates, which are one product with their weights' sum, are of no use to a file.
    decided = {site: layer for site, layer in factored.items() if isinstance(layer, KroneckerLinear)}
    return deploy.export(
        graph_stage.fold_sites(copied(model, ExportError), _to_fold(factored, lowering)),
        path,
        example_inputs,
        trained={site: (layer.factors, layer.evaluation) for site, layer in decided.items()},
        reference=model,
        dynamic_shapes=dynamic_shapes,
        batch_sizes=batch_sizes,
        verify=verify,
        tuning=tuning,
    )


def _to_fold(factored: dict[str, FactoredLayer], lowering: str) -> set[str]:
    """All sites but convolutions that the exporter can write factored: those are no products of matrices."""
    if lowering in ("dense", "blocks"):
        return set(factored)
    convolutions = ((name, layer) for name, layer in factored.items() if isinstance(layer, KroneckerConv))
    return set(factored) - {name for name, layer in convolutions if layer.evaluation != "materialize"}


def sparsify_onnx(
    src: str | Path,
    dst: str | Path,
    *,
    lowering: str = "auto",
    block: tuple[int, int] | None = None,
    tune: bool = True,
    rows: Sequence[int] = (1, 128),
    optimize_for: str = "latency",
    timings: deploy.Timings | str | Path | None = None,
    verify: bool = True,
    batch_sizes: Sequence[int] = (1, 7, 32),
    example_inputs: Mapping[str, Any] | None = None,
) -> deploy.ExportReport:
    """Write any ONNX file anew, smaller and faster where its weights have blocks of zeros, and computing the same.

    Every constant of a MatMul, Gemm, 1x1 Conv or MatMulInteger is looked at, whoever pruned it. An 8-bit file of
    onnxruntime's ``quantize_dynamic`` gains as well: quantize first, then come here. One of ``quantize_static`` (QDQ)
    becomes smaller, and runs as it did.

    - ``block``: ``(m2, n2)``, output rows first, of the blocks that are zero; left out, it is detected weight by
      weight.
    - ``lowering``, ``tune``, ``rows``, ``optimize_for``, ``timings``: as in :func:`export_onnx`; ``"factors"`` needs a
      model.
    - ``verify``: run both files in onnxruntime at ``batch_sizes`` and two lengths of every other free axis, on random
      inputs or on ``example_inputs`` (arrays by input name).

    ``src`` is left untouched, ``dst`` is written whole or not at all. Raises ExportError, VerificationError.
    """
    return deploy.sparsify(
        src,
        dst,
        lowering=lowering,
        block=block,
        tune=tune,
        rows=rows,
        optimize_for=optimize_for,
        timings=timings,
        verify=verify,
        batch_sizes=batch_sizes,
        example_inputs=example_inputs,
    )
