"""Owners -> graphs, to find out what they do with their weights; what runs is what a person wrote.

Each module that itself owns a weight is traced with its children as leaves: whole-model tracing fails on today's
models, an owner is small and mostly traceable. A trace sees one path through a forward (of its branches on options and
modes), drops contexts and freezes what it reads, so nothing but a GraphModule, which is such a graph already, is ever
rewritten by one. Here it only has to show that a weight is the matrix of a linear map, and what else is done to it.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from torch import fx, nn

from kronfx.graph.shadow import undisturbed


@dataclass(frozen=True, slots=True)
class Untraceable:
    """Why an owner has no graph: a reason a person can act on."""

    reason: str


class _OwnerTracer(fx.Tracer):
    """Traces one module; every child is a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def trace_owner(twin: nn.Module) -> fx.Graph | Untraceable:
    """What the forward of a module's twin does to its own parameters and children, or why nobody can tell.

    A GraphModule is its own graph.
    """
    if isinstance(twin, fx.GraphModule):
        return twin.graph
    try:
        with undisturbed():
            return _OwnerTracer().trace(twin)
    except Exception as error:
        return Untraceable(f"its forward cannot be traced ({stopping_line(error)}: {_first_line(error)})")


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
