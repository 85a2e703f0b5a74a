"""Products of two DequantizeLinear: what was quantized beforehand, with constant scales."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.nodes.values import is_constant, tensor_of


def static(node: ir.Node, left: ir.Value, right: ir.Value, transposed: bool) -> Linear | str | None:
    """The product of ``left`` and ``right``, the weight, where both were quantized beforehand."""
    quantized_x, quantized_W = _dequantized(left), _dequantized(right)
    if quantized_x is not None and is_constant(quantized_x[0]):
        return None if quantized_W is None else "multiplies by a quantized constant from the left"
    if quantized_W is None or not is_constant(quantized_W[0]):
        return None
    if quantized_x is None:
        return None
    weight, w_zero = quantized_W
    if (axes := len(tensor_of(weight).shape)) != 2:
        return f"multiplies by a quantized constant of {axes} axes, which is no matrix"
    if w_zero is not None and tensor_of(w_zero).size != 1 and tensor_of(w_zero).numpy().any():
        return "multiplies by a quantized constant whose rows have zero points of their own"
    x, x_zero = quantized_x
    return Linear(
        node=node,
        x=x,
        y=node.outputs[0],
        weight=weight,
        transposed=transposed,
        zero_points=(x_zero, w_zero),
        static=True,
    )


def _dequantized(value: ir.Value) -> tuple[ir.Value, ir.Value | None] | None:
    """The 8-bit numbers that a DequantizeLinear reads, and their zero point."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain:
        return None
    small, _, zero = (*node.inputs, None)[:3]
    if small is None or (zero is not None and not is_constant(zero)):
        return None
    kind = small.const_value.dtype if small.const_value is not None else small.dtype
    return (small, zero) if kind in (ir.DataType.INT8, ir.DataType.UINT8) else None
