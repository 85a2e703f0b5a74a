"""``Gemm``: a product of two matrices with a bias, either of them transposed, either scaled."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from kronfx.deploy.find.linear import Behind, Linear
from kronfx.deploy.find.spellings.flattened import unflattened
from kronfx.deploy.find.spellings.operand import number
from kronfx.deploy.find.spellings.product import product
from kronfx.deploy.nodes.values import is_constant, tensor_of


def gemm(node: ir.Node) -> Linear | str | None:
    """``alpha A B + beta C``, ``A`` and ``B`` transposed first where ``transA`` and ``transB`` say so."""
    return general(node, Behind())


def general(node: ir.Node, behind: Behind) -> Linear | str | None:
    """A ``Gemm`` with an activation ``behind`` it."""
    answer = product(node, swapped(node))
    if not isinstance(answer, Linear) or answer.static:
        return answer
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not is_constant(bias) and bias.shape is None:
        return "adds a bias of which the graph does not tell the shape"
    behind = replace(behind, scale=number(node, "alpha", 1.0), bias_scale=number(node, "beta", 1.0))
    linear = replace(answer, bias=bias, behind=behind)
    return unflattened(linear) if bias is None or _is_vector(bias, linear.dims[0]) else linear


def swapped(node: ir.Node) -> tuple[bool, bool]:
    """Which of its operands a node transposes."""
    return bool(number(node, "transA", 0)), bool(number(node, "transB", 0))


def _is_vector(bias: ir.Value, m: int) -> bool:
    """True for a constant that is the same at every position."""
    return is_constant(bias) and tuple(tensor_of(bias).shape.numpy()) in ((), (1,), (1, 1), (m,), (1, m))
