"""Every spelling of a linear map -> one canonical node: which weight it reads, what goes in, what bias comes on top.

A spelling is a function from an fx node to a :class:`Linear`, to the reason why this use of a weight cannot be
rewritten, or to ``None`` where it is no such spelling.

To add one: a function here, beside ``linear``, and a row in ``SPELLINGS``; it makes sites. Code that people wrote goes
on running, and its weights answer torch's own functions: one that has no row in ``PRODUCTS`` of
``kronfx/layers/products.py`` forms ``W``. ``tests/graph/test_spellings.py`` has a line for each, and fails then.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from kronfx.layers import Convolution, rows_times_matrix

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Linear:
    """The canonical node: ``node = x @ W^T (+ bias)`` with ``W [m, n]`` read by the ``get_attr`` node ``weight``.

    ``transposed``: the parameter is stored ``[n, m]``. ``convolution``: the node is ``conv(x, W) (+ bias)`` instead,
    with ``W [m, channels, *kernel]``; ``kernel`` is left at zeros, being the weight's to know.
    """

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    spelling: str
    transposed: bool = False
    convolution: Convolution | None = None


Found = Linear | str | None


def linear(node: fx.Node) -> Found:
    """``F.linear(x, W, b)``, ATen's ``linear``; ``W`` may be ``V.t()`` of a stored ``V [n, m]``."""
    if not _calls(node, F.linear, aten.linear.default):
        return None
    x, weight, bias = _operands(node, "input", "weight", "bias")
    return _canonical(node, x, weight, bias, "F.linear" if node.target is F.linear else "aten.linear", True)


def matrix_product(node: fx.Node) -> Found:
    """``x @ W``, ``x @ W.T``, ``torch.matmul``, ``torch.mm``, as functions, methods and in ATen."""
    functions = (operator.matmul, torch.matmul, torch.mm, aten.matmul.default, aten.mm.default)
    if not (_calls(node, *functions) or _calls_method(node, "matmul", "mm")):
        return None
    x, weight = _operands(node, "input", "mat2" if "mat2" in node.kwargs else "other")
    if _stored(weight) is None and _stored(x) is not None:
        return "it multiplies from the left: a map of columns, not of rows, which kronfx does not rewrite"
    return _canonical(node, x, weight, None, "x @ W", False)


def addmm(node: fx.Node) -> Found:
    """``torch.addmm(b, x, W)``: transformers' ``Conv1D`` and exported linear layers."""
    if not (_calls(node, torch.addmm, aten.addmm.default) or _calls_method(node, "addmm")):
        return None
    bias, x, weight = _operands(node, "input", "mat1", "mat2")
    if any(node.kwargs.get(scale, 1) != 1 for scale in ("alpha", "beta")):
        return "addmm scales its terms, which kronfx does not rewrite"
    return _canonical(node, x, weight, bias, "addmm", False)


def einsum(node: fx.Node) -> Found:
    """``einsum("...n,mn->...m", x, W)`` under any names, ``W`` stored either way."""
    if not _calls(node, torch.einsum, torch.functional.einsum) or not isinstance(node.args[0], str):
        return None
    operands = node.args[1] if isinstance(node.args[1], (list, tuple)) else node.args[1:]
    if len(operands) != 2:
        return None
    matrix_first = _stored(operands[0]) is not None
    x, weight = operands[::-1] if matrix_first else operands
    transposed = rows_times_matrix(node.args[0], matrix_first)
    if transposed is None:
        return f"einsum {node.args[0]!r} is no product of rows with a matrix"
    return _canonical(node, x, weight, None, "einsum", not transposed)


def convolution(node: fx.Node) -> Found:
    """``F.conv1d/2d/3d`` with one group, as a function and in ATen."""
    dims = _convolutions().get(node.target) if node.op == "call_function" else None
    if dims is None:
        return None
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    x, weight, bias, stride, padding, dilation, groups = _operands(node, *names)
    if groups not in (None, 1):
        return f"a grouped convolution ({groups} groups): its blocks lie on a diagonal that no Kronecker sum has"
    stored = _stored(weight)
    if stored is None or not isinstance(x, fx.Node):
        return None
    settings = Convolution.of(
        (0,) * dims,  # the weight's own axes, known where the weight is
        1 if stride is None else stride,
        0 if padding is None else padding,
        1 if dilation is None else dilation,
    )
    return Linear(node=node, x=x, weight=stored[0], bias=bias, spelling=f"conv{dims}d", convolution=settings)


SPELLINGS: tuple[Callable[[fx.Node], Found], ...] = (linear, matrix_product, addmm, einsum, convolution)


def canonical(node: fx.Node) -> Found:
    """The linear map this node spells, why it cannot be rewritten, or None."""
    for spelling in SPELLINGS:
        found = spelling(node)
        if found is not None:
            return found
    return None


def transposes(node: fx.Node) -> bool:
    """True for a node that only transposes a matrix: ``W.t()``, ``W.T``, ``W.transpose(0, 1)``, ATen's ``t`` ..."""
    if _calls_method(node, "t", "adjoint"):
        return True
    if _calls(node, torch.t, aten.t.default):
        return True
    if _calls(node, getattr):
        return node.args[1] in ("T", "mT")
    if _calls(node, torch.transpose, aten.transpose.int) or _calls_method(node, "transpose"):
        return {axis % 2 for axis in node.args[1:3] if isinstance(axis, int)} == {0, 1}
    if _calls(node, torch.permute, aten.permute.default) or _calls_method(node, "permute"):
        return node.args[1:] in ((1, 0), ([1, 0],), ((1, 0),))
    return False


def _calls(node: fx.Node, *functions: object) -> bool:
    return node.op == "call_function" and any(node.target is function for function in functions)


def _calls_method(node: fx.Node, *names: str) -> bool:
    return node.op == "call_method" and node.target in names


def _operands(node: fx.Node, *names: str) -> list[Any]:
    """The arguments by these names, given by position or keyword; None where they are not given."""
    given = dict(zip(names, node.args)) | node.kwargs
    return [given.get(name) for name in names]


def _stored(value: Any) -> tuple[fx.Node, bool] | None:
    """The ``get_attr`` node a value reads, and whether it reads it transposed."""
    if isinstance(value, fx.Node) and value.op == "get_attr":
        return value, False
    if isinstance(value, fx.Node) and transposes(value):
        inner = value.args[0]
        if isinstance(inner, fx.Node) and inner.op == "get_attr":
            return inner, True
    return None


def _canonical(node: fx.Node, x: Any, weight: Any, bias: Any, spelling: str, upright: bool) -> Found:
    """``upright``: the operation itself takes ``W [m, n]``, not ``[n, m]``."""
    stored = _stored(weight)
    if stored is None or not isinstance(x, fx.Node) or not (bias is None or isinstance(bias, fx.Node)):
        return None
    return Linear(node=node, x=x, weight=stored[0], bias=bias, spelling=spelling, transposed=stored[1] == upright)


def _convolutions() -> dict[object, int]:
    named = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
    return named | {aten.conv1d.default: 1, aten.conv2d.default: 2, aten.conv3d.default: 3}
