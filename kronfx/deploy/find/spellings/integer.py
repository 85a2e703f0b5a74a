"""``MatMulInteger``: 8-bit numbers that are quantized while the model runs, times an 8-bit matrix."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.nodes.values import is_constant, tensor_of


def integer(node: ir.Node) -> Linear | str | None:
    """``(x - x0) (W - w0)^T`` with ``W^T [n, m]`` on the right."""
    left, right = node.inputs[:2]
    x_zero, w_zero = (*node.inputs[2:], None, None)[:2]
    if left is None or right is None or not (is_constant(left) or is_constant(right)):
        return None
    if not is_constant(right):
        return "multiplies 8-bit numbers by a constant from the left"
    if (axes := len(tensor_of(right).shape)) != 2:
        return f"multiplies by a constant of {axes} axes, which is no matrix"
    if w_zero is not None and not is_constant(w_zero):
        return "computes the zero point of its weight"
    zero_points, y = (x_zero, w_zero), node.outputs[0]
    return Linear(node=node, x=left, y=y, weight=right, transposed=True, zero_points=zero_points)
