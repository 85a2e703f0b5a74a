"""What stands for zero in a constant: the zero point of 8-bit numbers, one for all or one a row or column."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, is_constant, tensor_of

# Where operators read 8-bit constants, and where their zero points.
_ZERO_POINTS = {
    ("ConvInteger", 1): 3,
    ("DequantizeLinear", 0): 2,
    ("DynamicQuantizeMatMul", 1): 3,
    ("MatMulInteger", 1): 3,
    ("MatMulIntegerToFloat", 1): 5,
    ("QGemm", 3): 5,
    ("QLinearConv", 3): 5,
    ("QLinearMatMul", 3): 5,
}
_ROWS = ("ConvInteger", "QLinearConv")  # their zero points are one a row, of others one a column


def ground_of(value: ir.Value, dims: tuple[int, int]) -> Array:
    """``[m, 1]``, ``[1, n]`` or ``[1, 1]`` of a constant that is seen as ``W [m, n]``; zero where nobody says more."""
    tensor = tensor_of(value)
    for node, position in value.uses():
        at = _ZERO_POINTS.get((node.op_type, position), len(node.inputs))
        zero = node.inputs[at] if at < len(node.inputs) else None
        if zero is None or not is_constant(zero) or tensor_of(zero).dtype != tensor.dtype:
            continue
        points = tensor_of(zero).numpy().reshape(-1)
        last = len(tensor.shape) - 1
        axis = node.attributes.get_int("axis", 1) % (last + 1) if node.op_type == "DequantizeLinear" else last
        is_row = axis == 0 if node.op_type == "DequantizeLinear" else node.op_type in _ROWS
        if len(points) == 1:
            return points.reshape(1, 1)
        if is_row and len(points) == dims[0]:
            return points.reshape(-1, 1)
        if axis == last and len(points) == dims[1]:
            return points.reshape(1, -1)
    return np.zeros((1, 1), tensor.dtype.numpy())
