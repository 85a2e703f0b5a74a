"""Floating products by 8-bit weights as onnxruntime has them in one node: the dynamic quantization of ONNX's own words.

``DynamicQuantizeMatMul`` quantizes its ``x`` itself, ``MatMulIntegerToFloat`` gets it so.
"""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import is_constant, tensor_of

Values = tuple[ir.Value, ir.Value, ir.Value | None]  # 8-bit numbers, their scale and their zero point


def dynamic(build: Builder, node: ir.Node) -> ir.Value | str | None:
    """``x, W^T, scale, zero point, bias``."""
    x, weight, scale, zero, bias = (*node.inputs, *(None,) * 5)[:5]
    if x is None or weight is None or scale is None or not is_constant(weight):
        return None
    quantize = build.node(ir.Node("", "DynamicQuantizeLinear", [x], num_outputs=3))
    small, x_scale, x_zero = quantize.outputs
    small.shape, x_scale.shape, x_zero.shape = x.shape, ir.Shape(()), ir.Shape(())
    small.dtype, x_scale.dtype, x_zero.dtype = ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8
    return _scaled(build, node, (small, x_scale, x_zero), (weight, scale, zero), bias)


def integer(build: Builder, node: ir.Node) -> ir.Value | str | None:
    """``x, W^T, scale of x, scale of W, zero point of x, zero point of W, bias``."""
    x, weight, x_scale, scale, x_zero, zero, bias = (*node.inputs, *(None,) * 7)[:7]
    if x is None or weight is None or x_scale is None or scale is None or not is_constant(weight):
        return None
    if x_scale.shape is None or any(dim != 1 for dim in x_scale.shape):
        return "has more than one scale for what it multiplies"
    if node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return "answers in half precision"
    return _scaled(build, node, (x, x_scale, x_zero), (weight, scale, zero), bias)


def _scaled(build: Builder, node: ir.Node, x: Values, weight: Values, bias: ir.Value | None) -> ir.Value:
    """``(x - x0) (W - w0)^T``, times both scales, and the bias."""
    shape, (scale, x_scale) = node.outputs[0].shape, (weight[1], x[1])
    sums = build.op("MatMulInteger", x[0], weight[0], x[2], weight[2])
    floats = build.op("Cast", sums, to=ir.DataType.FLOAT)
    scales = build.op("Mul", x_scale, scale)
    y = build.op("Mul", floats, scales)
    sums.dtype, floats.dtype, scales.dtype, y.dtype = ir.DataType.INT32, *(ir.DataType.FLOAT,) * 3
    sums.shape = floats.shape = y.shape = shape
    known = ir.Shape(tensor_of(scale).shape.numpy()) if is_constant(scale) else scale.shape
    scales.shape = known  # for that of x is a scalar
    return y if bias is None else build.op("Add", y, bias)
