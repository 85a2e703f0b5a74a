"""``QLinearMatMul``: 8-bit numbers times an 8-bit matrix, the sums made 8-bit again."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear, Requantized
from kronfx.deploy.nodes.values import is_constant, tensor_of


def qlinear(node: ir.Node) -> Linear | str | None:
    """``(x - x0) (W - w0)^T`` times ``x_scale scale / y_scale``, and ``y0``; ``W^T [n, m]`` on the right."""
    x, x_scale, x_zero, weight, scale, zero, y_scale, y_zero = (*node.inputs, *(None,) * 8)[:8]
    parts = x_scale, x_zero, scale, zero, y_scale, y_zero
    if x is None or weight is None or not is_constant(weight):
        return None
    if (axes := len(tensor_of(weight).shape)) != 2:
        return f"multiplies by a constant of {axes} axes, which is no matrix"
    if x_scale is None or scale is None or y_scale is None or y_zero is None or zero is None:
        return None
    if not all(part is not None and is_constant(part) for part in parts):
        return "computes a scale or a zero point"
    if any(part is None or tensor_of(part).size != 1 for part in parts):
        return "has a scale for each column, which onnxruntime does not take for a weight on the left"
    return Linear(
        node=node,
        x=x,
        y=node.outputs[0],
        weight=weight,
        transposed=True,
        zero_points=(x_zero, zero),
        requantized=Requantized(x_scale, scale, y_scale, y_zero),
    )
