"""The pass: canonical node -> Kronecker subgraph, for every choice of a plan.

Two phases. First every factored layer is built, which reads the model and may fail; then the graphs are edited and the
modules swapped, which may not: a model is rewritten whole or not at all, in place too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import fx, nn

from kronfx.errors import FactorizeError
from kronfx.graph.discover import discover
from kronfx.graph.match import Edits, Match, OwnerMatch
from kronfx.graph.references import held
from kronfx.graph.swap import copied
from kronfx.layers import (
    FactoredLayer,
    KroneckerCandidates,
    KroneckerConv,
    KroneckerLinear,
    candidates_of,
    factored_sites,
)
from kronfx.progress import bar
from kronfx.records import Choice, Plan

Init = Literal["random", "nearest"]

MARK = "kronfx"  # node.meta[MARK] is the name of the site a node belongs to
MARK_CONVOLUTION = "kronfx_convolution"  # the Convolution of a node that belongs to one
MARK_FEATURES = "kronfx_features"  # (m, n) of a padded layer, else None
MARK_EVALUATION = "kronfx_evaluation"  # how a factored layer is evaluated, on every node of its subgraph
MARK_CALL = "kronfx_call"  # and which of that site's calls, where a shared layer has several


def factorize(model: nn.Module, plan: Plan, init: Init, inplace: bool) -> nn.Module:
    """The model with every chosen site rewritten to ``sum_i (S * A_i) kron B_i``.

    ``init="random"`` draws factors whose ``W`` has the standard deviation of the weight they replace;
    ``init="nearest"`` takes the nearest factors of that weight, exact at full rank. The input is left untouched
    unless ``inplace``; either way use the returned module. Raises FactorizeError.
    """
    if init not in get_args(Init):
        raise FactorizeError("", f"init={init!r}", "'random', 'nearest' or 'calibrated'", "choose one of them")
    model = model if inplace else copied(model, FactorizeError)
    chosen = _matched(model, plan)
    layers = []
    with bar("factorizing", len(chosen)) as begin:
        for match, choices in chosen:
            begin(match.site.name)
            layers.append(_site_layer(match, choices, init))
    edits = Edits()
    for (match, _), layer in zip(chosen, layers, strict=True):
        match.put(layer, edits)
    model = edits.follow(model)
    _mark_calls(model)
    _check(model, plan)
    _require_followed(model, chosen)
    return model


def _matched(model: nn.Module, plan: Plan) -> list[tuple[Match, list[Choice]]]:
    """Each site in this model with its choices. Raises FactorizeError where the plan is for another model."""
    matches = list(discover(model, untie=True).matches)  # the plan decided what to untie
    found = {match.site.name: match for match in _beside_others(matches, model)}
    remedy = "plan this very model with kronfx.plan(model)"
    chosen: dict[str, tuple[Match, list[Choice]]] = {}
    for choice in plan.choices:
        match = found.get(choice.site.name)
        if match is None:
            known = ", ".join(found) or "none at all"
            raise FactorizeError(
                choice.site.label,
                "the plan names a site that this model has not",
                f"one of its sites ({known})",
                remedy,
            )
        if (match.site.m, match.site.n) != (choice.site.m, choice.site.n):
            raise FactorizeError(
                choice.site.label,
                f"this model's weight is {match.site.m}x{match.site.n}",
                "the planned size",
                remedy,
            )
        _check_choice(replace(choice, site=match.site))  # by what the model is, whatever the plan was made for
        chosen.setdefault(choice.site.name, (match, []))[1].append(choice)
    return list(chosen.values())


def _beside_others(matches: list[Match], model: nn.Module) -> list[Match]:
    """The matches, with owners that stay where something else holds their weight: it will hold the factored one."""
    aliased = held(model)
    return [
        match.staying if isinstance(match, OwnerMatch) and id(match.parameter) in aliased else match
        for match in matches
    ]


def _require_followed(model: nn.Module, chosen: list[tuple[Match, list[Choice]]]) -> None:
    """Every factor is reached from what runs: nothing that runs still holds what it took the place of."""
    left = held(model)
    for match, _ in chosen:
        if any(id(replaced) in left for replaced in match.replaced):
            found = "after the pass something still holds the dense layer"
            raise FactorizeError(match.site.label, found, "references that can be followed", "report this as a bug")


def _check_choice(choice: Choice) -> None:
    """A plan is an editable value: what was edited must still be possible."""
    shape, site = choice.shape, choice.site
    sizes = (shape.m1, shape.n1, shape.m2, shape.n2)
    rows, columns = choice.padding
    fits = 0 <= rows < shape.m2 and 0 <= columns < shape.n2 and (site.taps == 1 or choice.padding == (0, 0))
    if not fits or min(sizes) < 1 or shape.n2 % site.taps:
        raise FactorizeError(
            site.label,
            f"the blocks {shape} give {shape.m}x{shape.n}",
            "m1 m2 = m and n1 n2 = n, or less than one block more",
            "choose dividing blocks",
        )
    if not 1 <= choice.rank <= shape.max_rank:
        raise FactorizeError(
            site.label,
            f"rank {choice.rank} with the blocks {shape}",
            f"a rank from 1 to min(m1 n1, m2 n2) = {shape.max_rank}",
            "lower the rank or change the block",
        )


def _site_layer(match: Match, choices: list[Choice], init: Init) -> FactoredLayer:
    """What stands at one site: its factored layer, or one for each candidate, each with its share of ``W``."""
    layers = [_layer(match, choice, init, len(choices)) for choice in choices]
    layer = layers[0] if len(layers) == 1 else KroneckerCandidates(layers)
    layer.bias = match.bias  # the very parameter: optimizers and keys keep it
    return layer


def _layer(match: Match, choice: Choice, init: Init, candidates: int) -> KroneckerLinear:
    """A factored layer, its factors set, on the weight's device and of its dtype.

    Where candidates add up, nearest factors are of ``W / K`` each, random ones have a ``K``-th of its variance.
    """
    W = match.matrix
    layer = _empty(match, choice, W, W.device if init == "random" else torch.device("meta"))
    if init == "nearest":
        _require_values(match, W)
        layer.to_empty(device=W.device)  # nothing was drawn: the caller's random numbers are what they would have been
        share = W / candidates
        layer.set_nearest(share)
        _require_exact(match, choice, layer, share)
    else:
        std = _spread(W)
        layer.reset_factors(None if std is None else std / math.sqrt(candidates))
        _start_at_zero(layer, _zero(W) | choice.zero_start)
    for parameter in (layer.S, layer.A, layer.B):
        parameter.requires_grad_(W.requires_grad)
        vars(parameter).update(vars(match.parameter))  # marks that other code reads: no weight decay, say
    layer.predicted_seconds = choice.seconds
    return layer


def _empty(match: Match, choice: Choice, W: torch.Tensor, device: torch.device) -> KroneckerLinear:
    how = (choice.shape, choice.rank, choice.evaluation)
    if match.convolution is not None:
        return KroneckerConv(*how, match.convolution, False, device, W.dtype)
    features = (choice.site.m, choice.site.n) if any(choice.padding) else None
    return KroneckerLinear(*how, False, device, W.dtype, tuple(W.shape[:-2]), features)


def _require_values(match: Match, W: torch.Tensor) -> None:
    if W.is_meta:
        raise FactorizeError(
            match.site.label,
            "a weight on the meta device",
            "values to factor",
            "load the weights first, or init='random'",
        )
    if not bool(torch.isfinite(W).all()):
        raise FactorizeError(
            match.site.label,
            "NaN or infinite weights",
            "finite values to factor",
            "repair the checkpoint, or init='random'",
        )


def _require_exact(match: Match, choice: Choice, layer: KroneckerLinear, W: torch.Tensor) -> None:
    """What the pass promises at full rank, it checks: the factors give the weight back."""
    if choice.rank != choice.shape.max_rank:
        return
    error = torch.linalg.vector_norm((layer.factors.materialize() - W).detach().float())
    bound = 64 * torch.finfo(W.dtype).eps * torch.linalg.vector_norm(W.detach().float())
    if error > bound:
        raise FactorizeError(
            match.site.label,
            f"full-rank factors miss the weight by {float(error):.3g}",
            f"at most {float(bound):.3g} (64 eps of {W.dtype})",
            "report this weight as a bug",
        )


def _zero(W: torch.Tensor) -> torch.Tensor:
    """``[*stack]`` booleans: which maps of a weight are zero. Of a weight without values none is known to be."""
    if W.is_meta:
        return torch.zeros(W.shape[:-2], dtype=torch.bool, device=W.device)
    return ~W.detach().flatten(-2).any(dim=-1)


@torch.no_grad()
def _start_at_zero(layer: KroneckerLinear, which: torch.Tensor) -> None:
    """Zero the last factor of these maps: ``W = 0``, and that factor has a gradient at once, the others after a step.

    ``which [*stack]``. Were ``S`` zero, or two factors, no gradient would ever reach any of them.
    """
    layer.last_factor.masked_fill_(which[..., None, None, None], 0.0)


def _spread(W: torch.Tensor) -> float | None:
    """The weight's standard deviation, so that a custom initialization is kept; None where it has none."""
    if W.is_meta or W.numel() < 2:
        return None
    std = float(W.detach().float().std())
    return std if 0 < std < float("inf") else None


def _mark_calls(model: nn.Module) -> None:
    """Give every node that calls a factored layer its site, in every graph of the model."""
    names: dict[nn.Module, str] = {layer: name for name, layer in factored_sites(model).items()}
    for module in model.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                if node.op == "call_module" and module.get_submodule(str(node.target)) in names:
                    node.meta[MARK] = names[module.get_submodule(str(node.target))]


def _check(model: nn.Module, plan: Plan) -> None:
    """What the pass claims: every chosen site has factored layers of the chosen shapes, ranks and evaluations."""
    layers = factored_sites(model)
    for site in plan.sites:
        layer = layers.get(site.name)
        held = [] if layer is None else [(x.grid, x.rank, x.evaluation) for x in candidates_of(layer)]
        wanted = [(c.shape, c.rank, c.evaluation) for c in plan.choices if c.site == site]
        if held != wanted:
            raise FactorizeError(
                site.label, f"after the pass the site holds {held}", f"{wanted}", "report this model as a bug"
            )
