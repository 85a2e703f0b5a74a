"""Owners -> graphs: each module that itself owns a weight, traced with its children as leaves.

Whole-model tracing fails on today's models and flattens away hooks, modes and ``isinstance``; an owner is small and
mostly traceable, and swapping it leaves everything around it the user's. Symbolic tracing would silently freeze two
things, so both are tested for and refused or repaired: the branch taken for an optional argument, and the
``training`` flag (see ``modes``).
"""

from __future__ import annotations

import inspect
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import fx, nn

from kronfx.graph import modes


@dataclass(frozen=True, slots=True)
class Untraceable:
    """Why an owner has no graph: a reason a person can act on."""

    reason: str


class _OwnerTracer(fx.Tracer):
    """Traces one module; every child is a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace_owner(owner: nn.Module) -> fx.GraphModule | Untraceable:
    """The owner's forward as a GraphModule of its own parameters and children, or why there is none.

    A GraphModule is its own graph. The owner is left as it was, its ``training`` flag included.
    """
    if isinstance(owner, fx.GraphModule):
        return owner
    try:
        graph = _trace(owner)
        frozen = _frozen_argument(owner, graph)
        if frozen is not None:
            return Untraceable(f"its forward branches on the optional argument {frozen!r}, which a trace would freeze")
        merged = modes.merge(owner, _in_mode(owner, True), _in_mode(owner, False))
        source(merged)
        return merged
    except modes.ModesDiffer as error:
        return Untraceable(str(error))
    except Exception as error:
        return Untraceable(f"its forward cannot be traced ({stopping_line(error)}: {_first_line(error)})")


def source(graph: fx.GraphModule) -> str:
    """The forward of a graph as source, its imports before it: what a copy in another process can run."""
    _, (_, imports) = graph.__reduce__()
    return f"{imports}\n{graph.code}"


def _trace(owner: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
    graph = _OwnerTracer().trace(owner, concrete_args)
    for node in graph.nodes:
        node.type = None  # annotations may be strings or local classes, which no copy in another process can import
    return graph


def _in_mode(owner: nn.Module, training: bool) -> fx.Graph:
    before = owner.training
    owner.training = training
    try:
        return _trace(owner)
    finally:
        owner.training = before


def _frozen_argument(owner: nn.Module, graph: fx.Graph) -> str | None:
    """The first optional argument whose default takes another path through ``forward`` than a given tensor does."""
    for name, parameter in inspect.signature(owner.forward).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            continue
        try:
            default = _trace(owner, {name: parameter.default})
        except Exception:
            return name
        if _steps(default, name) != _steps(graph, name):
            return name
    return None


def _steps(graph: fx.Graph, argument: str) -> list[tuple[str, str]]:
    """What a graph does, whatever is done to the argument's own placeholder and its specialization check."""
    checks = {user for node in graph.nodes if node.op == "placeholder" for user in node.users if _is_check(user)}
    return [
        (node.op, str(node.target))
        for node in graph.nodes
        if node not in checks and not (node.op == "placeholder" and str(node.target).startswith(argument))
    ]


def _is_check(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__module__", "").startswith("torch.fx")


def stopping_line(error: BaseException) -> str:
    """``file.py:123 `code` ``: the innermost line of the user's code, not of torch.fx, that stopped a trace."""
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not {"fx", "kronfx"} & set(Path(f.filename).parts) and f.line]
    if not outside:
        return type(error).__name__
    frame = outside[-1]
    return f"{Path(frame.filename).name}:{frame.lineno} `{frame.line}`"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
