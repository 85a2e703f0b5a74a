"""The reverse pass: Kronecker subgraph -> block-sparse linear."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import reduce
from operator import add

import torch
from torch import Tensor, fx, nn

from kronfx.errors import FoldError
from kronfx.graph.discover import attribute
from kronfx.graph.factorize import MARK, MARK_CALL, MARK_CONVOLUTION, MARK_FEATURES
from kronfx.graph.references import follow
from kronfx.graph.swap import copied, swap
from kronfx.layers import (
    BlockSparseLinear,
    Convolution,
    FactoredLayer,
    Factors,
    block_sparse_conv,
    candidates_of,
    factored_sites,
    factored_weights,
    folded_layers,
    full_precision,
    release,
    require_module,
)
from kronfx.progress import bar
from kronfx.records import KroneckerShape


@full_precision()
def fold(model: nn.Module, *, threshold: float = 0.0, inplace: bool = False) -> nn.Module:
    """Multiply the trained factors out into block-sparse weights ``W = sum_i (S * A_i) kron B_i``: the reverse pass.

    Blocks with ``|S[p, j]| <= threshold`` become exactly zero; at ``threshold=0.0`` that is ``S == 0`` and the weight
    is the trained one to the bit. Each factored layer becomes an ``nn.Linear`` that knows its block grid. The model
    passed in is left untouched unless ``inplace=True``; folding a folded model changes nothing. Candidates that no
    selection has decided between fold into their sum, on the finest of their common grids. Raises FoldError.
    """
    require_module(model, FoldError)
    if not threshold >= 0:
        raise FoldError("", f"threshold={threshold}", "a number of at least 0", "pass 0.0 to fold without pruning")
    names = factored_sites(model).keys()
    if not names and not folded_layers(model) and not any(subgraphs(g) for g in graphs(model)):
        raise FoldError(
            "",
            "no factored layer in this model",
            "a model that kronfx.factorize rewrote",
            "factorize it first",
        )
    folded = fold_sites(model if inplace else copied(model, FoldError), names, threshold)
    for module in graphs(folded):
        module.graph.eliminate_dead_code()  # what nobody uses must not hold on to factors that are about to go
        for site, calls in subgraphs(module).items():
            fold_subgraphs(module, site, calls, threshold)
    return folded


def fold_sites(model: nn.Module, names: Collection[str], threshold: float = 0.0) -> nn.Module:
    """Fold the named sites of a model in place; returns it (or what takes its place, where it is a site itself)."""
    chosen = {name: layer for name, layer in factored_sites(model).items() if name in names}
    weights: dict[FactoredLayer, Tensor] = {}
    with bar("folding", len(chosen)) as begin:
        for name, layer in chosen.items():
            begin(name)
            weights[layer] = _site_weight(name, layer, threshold)
    parameters: dict[nn.Module, nn.Parameter] = {}
    for owner in list(model.modules()):
        for name, layer in factored_weights(owner).items():
            if layer in weights:
                parameters[layer] = release(owner, name, weights.pop(layer))
    folded: dict[nn.Module, nn.Module] = {
        layer: _folded(W, layer.bias, layer.grid, getattr(layer, "convolution", None)) for layer, W in weights.items()
    }
    return follow(swap(model, folded), parameters)


def _site_weight(name: str, layer: FactoredLayer, threshold: float) -> Tensor:
    """``W`` of a site, that of candidates being their sum."""
    return reduce(add, (_weight(name, part.factors, threshold) for part in candidates_of(layer)))


def _weight(name: str, factors: Factors, threshold: float) -> Tensor:
    """``W [..., m, n]`` without its pruned blocks. Raises FoldError."""
    m, n = factors.features or (factors.shape.m, factors.shape.n)
    label = f"{name} ({m}x{n})"
    if factors.S.is_meta:
        raise FoldError(label, "factors on the meta device", "values to multiply out", "load the factors first")
    S = factors.S.detach()
    trained = replace(factors, S=torch.where(S.abs() > threshold, S, 0), A=factors.A.detach(), B=factors.B.detach())
    if not all(bool(torch.isfinite(factor).all()) for factor in (S, trained.A, trained.B)):
        raise FoldError(label, "NaN or infinite factors", "finite factors", "train again from an earlier checkpoint")
    W = trained.materialize().contiguous()
    return W.requires_grad_(factors.S.requires_grad)


def _folded(W: Tensor, bias: Tensor | None, shape: KroneckerShape, convolution: Convolution | None) -> nn.Module:
    if convolution is not None:
        return block_sparse_conv(W, bias, shape, convolution)
    return BlockSparseLinear(W, bias, shape)


def graphs(model: nn.Module) -> list[fx.GraphModule]:
    """Every GraphModule in a model, itself included."""
    return [module for module in model.modules() if isinstance(module, fx.GraphModule)]


def subgraphs(module: fx.GraphModule) -> dict[str, list[list[fx.Node]]]:
    """The Kronecker subgraphs a graph spells out node by node, as ``kronfx.graph`` does: per site, one a call.

    They are found by their marks; the ``get_attr`` nodes that calls of one site may share belong to none.
    """
    sites: dict[str, dict[object, list[fx.Node]]] = {}
    for node in module.graph.nodes:
        if MARK in node.meta and node.op not in ("call_module", "get_attr"):
            calls = sites.setdefault(node.meta[MARK], {})
            calls.setdefault(node.meta.get(MARK_CALL), []).append(node)
    return {site: list(calls.values()) for site, calls in sites.items()}


def fold_subgraphs(module: fx.GraphModule, site: str, calls: list[list[fx.Node]], threshold: float) -> None:
    """Replace the subgraphs of one site by calls of its folded layer, which goes where the factors were.

    What enters a subgraph from outside is the layer's input, and the one of its nodes that is used outside is the
    output. Raises FoldError where a later transformation left no such subgraph.
    """
    targets = [str(n.target) for nodes in calls for n in _inputs(nodes) if n.op == "get_attr"]
    read = {target.rpartition(".")[2]: target for target in targets}
    if not {"S", "A", "B"} <= read.keys() or any(len(_entering(c)) != 1 or len(_leaving(c)) != 1 for c in calls):
        raise FoldError(
            site,
            "a Kronecker subgraph that another pass has changed",
            "one input, one output and S, A, B",
            "fold the model before that pass, then take its graph",
        )
    values = {name: attribute(module, target) for name, target in read.items()}
    factors = Factors(values["S"], values["A"], values["B"], calls[0][0].meta.get(MARK_FEATURES))
    convolution = calls[0][0].meta.get(MARK_CONVOLUTION)
    layer = _folded(_weight(site, factors, threshold), values.get("bias"), factors.shape, convolution)
    holder = read["S"].rpartition(".")[0] or "folded"
    module.add_submodule(holder, layer.train(module.training))
    for nodes in calls:
        (x,), (y,) = _entering(nodes), _leaving(nodes)
        with module.graph.inserting_before(y):
            call = module.graph.call_module(holder, (x,))
        call.meta[MARK] = site
        y.replace_all_uses_with(call)
        for node in reversed(nodes):
            module.graph.erase_node(node)
    for node in [n for n in module.graph.nodes if n.op == "get_attr" and n.target in targets]:
        module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


def _inputs(nodes: list[fx.Node]) -> list[fx.Node]:
    return list(dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in nodes))


def _entering(nodes: list[fx.Node]) -> list[fx.Node]:
    return [n for n in _inputs(nodes) if n.op != "get_attr"]


def _leaving(nodes: list[fx.Node]) -> list[fx.Node]:
    return [node for node in nodes if any(user not in nodes for user in node.users)]
