"""The product of two operands, one of them a constant matrix, which all spellings but convolutions come down to."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.dequantized import dequantized
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.operand import no_matrix
from kronfx.deploy.find.spellings.static import static
from kronfx.deploy.nodes.values import is_constant, tensor_of


def product(node: ir.Node, swapped: tuple[bool, bool] = (False, False)) -> Linear | str | None:
    """``A B`` of a node's first two inputs, whose last two axes trade places first where ``swapped``.

    ``x W^T`` with ``W^T [n, m]`` on the right, ``W x`` with ``W [m, n]`` on the left, or what was quantized.
    """
    if node.inputs[0] is None or node.inputs[1] is None:
        return None
    left, from_left = _seen_through(node.inputs[0])
    right, from_right = _seen_through(node.inputs[1])
    swapped = swapped[0] != from_left, swapped[1] != from_right
    if is_constant(left) and is_constant(right):
        return "multiplies two constants"
    y = node.outputs[0]
    if is_constant(right):
        linear = Linear(node=node, x=left, y=y, weight=right, transposed=not swapped[1], x_transposed=swapped[0])
        return no_matrix(right, left) or linear
    if is_constant(left):
        linear = Linear(
            node=node, x=right, y=y, weight=left, transposed=swapped[0], x_transposed=swapped[1], channels_first=True
        )
        return no_matrix(left, right) or linear
    return static(node, left, right, transposed=not swapped[1]) or _weight_only(node, left, right, swapped)


def _weight_only(node: ir.Node, left: ir.Value, right: ir.Value, swapped: tuple[bool, bool]) -> Linear | None:
    """The product with a matrix of few bits, where that alone is quantized."""
    y = node.outputs[0]
    if (found := dequantized(right)) is not None and len(tensor_of(found[0]).shape) == 2:
        weight, scales = found
        transposed = not swapped[1]
        return Linear(
            node=node, x=left, y=y, weight=weight, transposed=transposed, x_transposed=swapped[0], scales=scales
        )
    if (found := dequantized(left)) is not None and len(tensor_of(found[0]).shape) == 2:
        weight, scales = found
        return Linear(
            node=node,
            x=right,
            y=y,
            weight=weight,
            transposed=swapped[0],
            x_transposed=swapped[1],
            channels_first=True,
            scales=scales,
        )
    return None


def _seen_through(value: ir.Value) -> tuple[ir.Value, bool]:
    """The constant matrix that a value is the transpose of, and True; else the value itself."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.domain or node.inputs[0] is None:
        return value, False
    source, is_swap = node.inputs[0], tuple(node.attributes.get_ints("perm", (1, 0))) == (1, 0)
    is_matrix = is_constant(source) and len(tensor_of(source).shape) == 2
    return (source, True) if is_swap and is_matrix else (value, False)
