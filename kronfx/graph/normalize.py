"""Every spelling of a linear map -> one canonical node: which weight it reads, what goes in, what bias comes on top.

A spelling is a function from an fx node to a :class:`Linear` or ``None``; a new one is a row in ``SPELLINGS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx


@dataclass(frozen=True, slots=True)
class Linear:
    """The canonical node: ``node = x @ weight^T (+ bias)`` with ``weight [m, n]`` read by a ``get_attr`` node."""

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    spelling: str


def functional_linear(node: fx.Node) -> Linear | None:
    """``F.linear(x, W, b)``, by position or by keyword, and ATen's ``linear.default`` from ``torch.export``."""
    if node.op != "call_function" or node.target not in (F.linear, torch.ops.aten.linear.default):
        return None
    operands = dict(zip(("input", "weight", "bias"), node.args)) | node.kwargs
    x, weight, bias = operands.get("input"), operands.get("weight"), operands.get("bias")
    if not (isinstance(x, fx.Node) and isinstance(weight, fx.Node) and weight.op == "get_attr"):
        return None
    if not (bias is None or isinstance(bias, fx.Node)):
        return None
    return Linear(node, x, weight, bias, "F.linear" if node.target is F.linear else "aten.linear")


SPELLINGS: tuple[Callable[[fx.Node], Linear | None], ...] = (functional_linear,)


def canonical(node: fx.Node) -> Linear | None:
    """The linear map this node spells, if it spells one."""
    for spelling in SPELLINGS:
        found = spelling(node)
        if found is not None:
            return found
    return None
