"""The public verbs: each composes stages that do not know each other.

``plan`` needs the sites that the graph stage finds and the shapes that the planner chooses, ``export_onnx`` folds
before it deploys; the stages themselves never import one another, so this is the one place where they meet.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import TypedDict, Unpack

from kronfx import deploy, records
from kronfx import graph as graph_stage
from kronfx.errors import ExportError, FactorizeError, PlanError
from kronfx.graph.swap import copied
from kronfx.layers import FactoredLayer, candidates_of, factored_sites, require_module
from kronfx.planner import DEFAULT_RANK, BlockWish, Names, RankWish, plan_sites


class PlanOptions(TypedDict, total=False):
    """The keywords of :func:`plan`."""

    rank: RankWish
    block: BlockWish
    include: Names
    exclude: Names
    rows: int
    untie: bool


def plan(
    model: nn.Module,
    *,
    rank: RankWish = DEFAULT_RANK,
    block: BlockWish = None,
    include: Names = None,
    exclude: Names = None,
    rows: int = 512,
    untie: bool = False,
) -> records.Plan:
    """Choose what every linear map ``W [m, n]`` of a model becomes: a block shape, a rank and an evaluation.

    - ``rank``: an integer, ``"full"`` (each layer's ``min(m1 n1, m2 n2)``, exact with ``init="nearest"``), or a mapping
      from layer names or globs to either; sites a mapping leaves out get 4.
    - ``block``: ``(m2, n2)``, output rows first, or a mapping from names or globs to such pairs; where none is given,
      the integer program chooses the shape with the fewest parameters (paper, Eq. 5, at the wished rank). A list of
      pairs in the place of one makes them candidates, side by side until ``kronfx.train.PatternSelection`` has chosen.
    - ``include``, ``exclude``: names or globs of the sites to rewrite or to leave alone.
    - ``untie``: also rewrite a weight that several modules share; it becomes one weight each.
    - ``rows``: the number of rows of ``x`` to expect (batch times sequence); it decides the evaluation.

    No value of the model is touched. Raises PlanError.
    """
    require_module(model, PlanError)
    found = graph_stage.discover(model, untie)
    return plan_sites(found.sites, found.refusals, rank=rank, block=block, include=include, exclude=exclude, rows=rows)


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
    spread of the weights it replaces; ``init="nearest"`` starts from the nearest factors of the weights. The model
    passed in is left untouched unless ``inplace=True``; use the returned one in either case. What was rewritten and
    what was refused is in ``kronfx.inspect(result)``. Raises PlanError, FactorizeError.
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
        plan = _plan(model, **plan_options)
    if not isinstance(plan, records.Plan):
        raise FactorizeError("", f"a plan of type {type(plan).__name__}", "a kronfx Plan", "make one with kronfx.plan")
    rewritten = graph_stage.factorize(model, plan, init, inplace)
    if not plan.choices:
        reasons = {refusal.reason for refusal in plan.refusals} or {"the model has no weight of two or more dimensions"}
        warnings.warn(f"kronfx.factorize rewrote nothing: {'; '.join(sorted(reasons))}", stacklevel=2)
    return rewritten


_plan = plan  # the verb, where a parameter of factorize has its name


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_inputs: Any,
    *,
    lowering: str = "auto",
    verify: bool = True,
    batch_sizes: Sequence[int] = (1, 7, 32),
    dynamic_shapes: Any = None,
) -> deploy.ExportReport:
    """Write a factored or folded model as one ONNX file of standard operators that computes the same, verified.

    - ``example_inputs``: a tensor, a tuple of tensors or a dict of keyword tensors; the batch axis stays dynamic
      (``dynamic_shapes`` takes over, as ``torch.export`` understands it, where that is not what the model needs).
    - ``lowering``: how each rewritten layer runs. ``"dense"``: one MatMul; the file stores the surviving blocks only
      and rebuilds the weight when the session loads. ``"factors"``: the factored evaluation itself (for a model that
      is not folded yet), save where that is to form the weight anyway. ``"auto"``: ``factors`` wherever there are some.
    - ``verify``: run the file in onnxruntime against the model at ``batch_sizes`` before it gets its name.

    The model is left untouched; the file is written whole or not at all. Raises ExportError, VerificationError.
    """
    require_module(model, ExportError)
    return deploy.export(
        graph_stage.fold_sites(copied(model, ExportError), _to_fold(model, lowering)),
        path,
        example_inputs,
        reference=model,
        dynamic_shapes=dynamic_shapes,
        batch_sizes=tuple(batch_sizes),
        verify=verify,
    )


def _to_fold(model: nn.Module, lowering: str) -> set[str]:
    """The factored sites that the lowering wants as dense weights."""
    factored = factored_sites(model)
    if lowering not in ("auto", "dense", "factors"):
        raise ExportError("", f"lowering={lowering!r}", "one of 'auto', 'dense', 'factors'", "choose one of these")
    if lowering == "factors" and not factored:
        remedy = "export the factored model itself, not its fold"
        raise ExportError("", "no factored layer in this model", "factors for lowering='factors'", remedy)
    if lowering == "dense":
        return set(factored)
    return {name for name, layer in factored.items() if _runs_dense(layer)}


def _runs_dense(layer: FactoredLayer) -> bool:
    """One whose evaluation forms its weight; and candidates, whose sum is one product with the sum of their weights."""
    parts = candidates_of(layer)
    return len(parts) > 1 or parts[0].evaluation == "materialize"
