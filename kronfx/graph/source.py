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

# Operations that take a matrix as [..., m, n] ("upright"), and those that take it as [..., n, m]; as which argument.
UPRIGHT = {"linear": 1, "multi_head_attention_forward": None, "_native_multi_head_attention": None}
TRANSPOSED = {"matmul": 1, "mm": 1, "bmm": 1, "_grouped_mm": 1, "grouped_mm": 1, "addmm": 2, "baddbmm": 2}
LIBRARIES = {"torch", "nn", "F", "functional"}
PASSING = {"to", "type_as", "contiguous"}
TRANSPOSING = {"t", "transpose", "T", "mT"}
ASKING = {"shape", "dtype", "device", "size", "dim", "ndim", "numel", "requires_grad", "is_cuda", "layout"}
_USES = {
    ast.Assign: "an assignment", ast.BinOp: "an operation of its elements", ast.Return: "a return",
    ast.Subscript: "an index",
}  # fmt: skip
BUILDING = ("init", "reset", "repr", "setstate", "load")  # in the names of methods that do not compute


@dataclass(frozen=True, slots=True)
class LinearUse:
    """The weight is the matrix of a linear map, stored ``[..., n, m]`` where ``transposed``."""

    transposed: bool


def linear_use(owner: nn.Module, name: str) -> LinearUse | str | None:
    """How the owner's class uses ``self.name``: as a linear map's matrix only; in half a sentence, its first other use;
    or None where the source does not say."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(type(owner))))
    except (OSError, TypeError, SyntaxError):
        return None
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    reads = [node for node in ast.walk(tree) if _reads(node, name) and not _builds(node, parents)]
    uses = [(_use(node, parents), node) for node in reads]
    for use, node in uses:
        if use == "other":
            return _said(parents[node], parents)
    linear = {use for use, _ in uses if isinstance(use, bool)}
    return LinearUse(linear.pop()) if len(linear) == 1 else None


def _said(use: ast.AST, parents: dict[ast.AST, ast.AST]) -> str:
    """What is done with a weight there."""
    call = parents[use] if isinstance(use, ast.keyword) else use
    if isinstance(call, ast.Call):
        return f"read by {getattr(call.func, 'attr', getattr(call.func, 'id', 'a call'))}"
    return f"read in {_USES.get(type(use), 'its code')}"


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
        if isinstance(node, ast.FunctionDef) and any(part in node.name for part in BUILDING):
            return True
    return False


def _use(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool | str:
    """True or False: a linear map, stored transposed or not; ``"asked"``: no use; ``"other"``: any other."""
    transposed = False
    while True:
        parent = parents[node]
        if isinstance(parent, ast.Subscript) and parent.value is node:
            node = parent
        elif isinstance(parent, ast.Attribute) and parent.attr in TRANSPOSING | PASSING:
            transposed ^= parent.attr in TRANSPOSING
            call = parents[parent]
            node = call if isinstance(call, ast.Call) and call.func is parent else parent
        else:
            break
    if isinstance(parent, ast.Attribute) and parent.attr in ASKING:
        return "asked"
    if isinstance(parent, (ast.Compare, ast.Tuple, ast.List, ast.BoolOp, ast.If, ast.IfExp, ast.UnaryOp)):
        return "asked"
    if isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.MatMult) and parent.right is node:
        return not transposed
    if isinstance(parent, ast.keyword):
        call = parents[parent]
        return _argument(call, None, transposed) if isinstance(call, ast.Call) else "other"
    return _argument(parent, node, transposed) if isinstance(parent, ast.Call) else "other"


def _argument(call: ast.Call, node: ast.AST | None, transposed: bool) -> bool | str:
    """What a call does with its argument ``node``, or with one it takes by keyword."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name not in UPRIGHT and name not in TRANSPOSED:
        return "other"
    wanted = UPRIGHT.get(name, TRANSPOSED.get(name))
    is_method = (
        isinstance(call.func, ast.Attribute)
        and getattr(call.func.value, "attr", getattr(call.func.value, "id", "")) not in LIBRARIES
    )
    if node is not None and wanted is not None and call.args.index(node) + is_method != wanted:  # type: ignore[arg-type]
        return "other"
    return transposed if name in UPRIGHT else not transposed
