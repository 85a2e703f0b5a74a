"""What a forward that cannot be traced does with a weight, read off its source.

A weight may become a property of its owner (``layers.adopted``) where the owner's own methods use it as the matrix of a
linear map and as nothing else; asking for its shape, dtype or presence is no use.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass

from torch import nn

# Operations that take a matrix as [..., m, n] ("upright"), and those that take it as [..., n, m].
UPRIGHT = {"linear", "multi_head_attention_forward", "_native_multi_head_attention"}
TURNED = {"matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "_grouped_mm", "grouped_mm"}
PASSING = {"to", "type_as", "contiguous"}
TURNING = {"t", "transpose", "T", "mT"}
ASKING = {"shape", "dtype", "device", "size", "dim", "ndim", "numel", "requires_grad", "is_cuda", "layout"}
BUILDING = ("__init__", "reset_parameters", "_reset_parameters", "extra_repr", "__setstate__")


@dataclass(frozen=True, slots=True)
class LinearUse:
    """The weight is the matrix of a linear map, stored ``[..., n, m]`` where ``transposed``."""

    transposed: bool


def linear_use(owner: nn.Module, name: str) -> LinearUse | None:
    """How the owner's class uses ``self.name``: as a linear map's matrix only, or otherwise None."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(owner))))
    except (OSError, TypeError, SyntaxError):
        return None
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    uses = [_use(node, parents) for node in ast.walk(tree) if _reads(node, name) and not _builds(node, parents)]
    linear = {use for use in uses if isinstance(use, bool)}
    return LinearUse(linear.pop()) if len(linear) == 1 and "other" not in uses else None


def _reads(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and isinstance(node.ctx, ast.Load)
    )


def _builds(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.FunctionDef) and node.name in BUILDING:
            return True
    return False


def _use(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool | str:
    """True or False: a linear map, stored transposed or not; ``"asked"``: no use; ``"other"``: any other."""
    turned = False
    while True:
        parent = parents[node]
        if isinstance(parent, ast.Subscript) and parent.value is node:
            node = parent
        elif isinstance(parent, ast.Attribute) and parent.attr in TURNING | PASSING:
            turned ^= parent.attr in TURNING
            call = parents[parent]
            node = call if isinstance(call, ast.Call) and call.func is parent else parent
        else:
            break
    if isinstance(parent, ast.Attribute) and parent.attr in ASKING:
        return "asked"
    if isinstance(parent, (ast.Compare, ast.Tuple, ast.List, ast.BoolOp, ast.If, ast.IfExp, ast.UnaryOp)):
        return "asked"
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.MatMult) and parent.right is node:
        return not turned
    called = parent.func if isinstance(parent, ast.Call) else parents.get(parent)
    if isinstance(parent, ast.keyword) and isinstance(called, ast.Call):
        called = called.func
    function = getattr(called, "attr", getattr(called, "id", ""))
    if function in UPRIGHT:
        return turned
    return not turned if function in TURNED else "other"
