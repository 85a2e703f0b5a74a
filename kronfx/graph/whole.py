"""The whole model as one graph, every Kronecker subgraph spelled out and marked with its site."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from kronfx.errors import GraphError
from kronfx.graph.factorize import MARK, MARK_CALL, MARK_CONVOLUTION, MARK_EVALUATION, MARK_FEATURES
from kronfx.graph.trace import stopping_line
from kronfx.layers import FOLDED, KroneckerConv, KroneckerLinear, answer, full_precision, holds_unformed, named_sites


class _WholeTracer(fx.Tracer):
    """Goes through everything but torch's own layers; marks what a factored or folded layer emits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.sites = {module: name for name, module in named_sites(model)}
        self.marks: dict[str, Any] = {}
        self.calls = 0

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, KroneckerLinear):
            return False
        return isinstance(m, FOLDED) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not isinstance(m, (KroneckerLinear, *FOLDED)):
            return super().call_module(m, forward, args, kwargs)
        self.calls += 1
        self.marks = _marks(self.sites[m], self.calls, m)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.marks = {}

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """What would take a weight that is not formed is answered by its factors, node by node."""
        function: Any = getattr(torch.Tensor, target, None) if kind == "call_method" else target
        if kind in ("call_function", "call_method") and holds_unformed((*args, *kwargs.values())):
            return answer(function, args, kwargs)
        return super().create_proxy(kind, target, args, kwargs, *more, **options)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: Any = None, type_expr: Any = None
    ) -> fx.Node:
        """A node of a subgraph is named after it: ``encoder_0_fc1_a_first_matmul``."""
        if MARK_EVALUATION in self.marks and kind in ("call_function", "call_method"):
            does = target if kind == "call_method" else target.__name__
            name = f"{self.marks[MARK]}.{self.marks[MARK_EVALUATION]}.{does}"
        node = super().create_node(kind, target, args, kwargs, name, type_expr)
        if node.op not in ("placeholder", "output"):
            node.meta |= self.marks
        return node


@full_precision()
def graph(model: nn.Module, example_inputs: Any = None) -> fx.GraphModule:
    """One GraphModule of the model that shares its parameters; nodes of a Kronecker subgraph carry
    ``node.meta["kronfx"]``, the name of their site.

    Symbolic tracing is tried first. Where it stops and ``example_inputs`` (a tensor, a tuple or a dict) are given,
    ``torch.export`` captures the model for inputs like these instead, in ATen operators. Raises GraphError, with the
    line of the model's code that stops the trace, where neither works. :func:`kronfx.draw` makes a picture of it.
    """
    tracer = _WholeTracer(model)
    try:
        if isinstance(model, KroneckerLinear):
            tracer.marks = _marks("weight", 0, model)
        traced = fx.GraphModule(model, tracer.trace(model), class_name=type(model).__name__)
    except Exception as error:
        stopped = f"symbolic tracing stops at {stopping_line(error)}"
        if example_inputs is None:
            raise GraphError("", stopped, "a traceable forward", "pass example_inputs to use torch.export") from error
        return _exported(model, example_inputs, stopped)
    traced.graph.lint()
    return traced


def _exported(model: nn.Module, example_inputs: Any, stopped: str) -> fx.GraphModule:
    args, kwargs = call_of(example_inputs)
    try:
        exported = torch.export.export(model, args, kwargs, strict=False).module()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GraphError(
            "",
            f"{stopped}, and torch.export says: {reason}",
            "a model that one of the two captures",
            "look at its layers with kronfx.inspect instead",
        ) from error
    sites = _sites_by_any_path(model)
    for node in exported.graph.nodes:
        for call, _ in node.meta.get("nn_module_stack", {}).values():
            path = call.partition("@")[0]  # torch.export numbers further calls of one module: "fc", "fc@1"
            if path in sites:
                node.meta |= _marks(sites[path][0], call, sites[path][1])
    return exported


def _sites_by_any_path(model: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """Every path to a rewritten layer, a shared one's further paths included -> the name of its site, and the layer."""
    names = {module: name for name, module in named_sites(model)}
    return {
        path: (names[module], module)
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, (KroneckerLinear, *FOLDED))
    }


def _marks(site: str, call: object, layer: nn.Module) -> dict[str, Any]:
    """What every node of a subgraph carries."""
    marks = {MARK: site, MARK_CALL: call, MARK_FEATURES: getattr(layer, "features", None)}
    if isinstance(layer, KroneckerLinear):
        marks[MARK_EVALUATION] = layer.evaluation
    return marks | {MARK_CONVOLUTION: layer.convolution} if isinstance(layer, KroneckerConv) else marks


def call_of(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that a model is called with, by place and by name."""
    if isinstance(example_inputs, dict):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}
