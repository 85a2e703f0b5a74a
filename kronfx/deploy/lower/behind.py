"""What a product's node does behind its product: it scales, adds a bias, applies an activation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.lower.operators.elementwise import column
from kronfx.deploy.nodes.values import is_constant, tensor_of


def finished(layouts: Layouts, linear: Linear, y: Feature) -> Feature:
    """``f(scale W x + bias_scale bias)`` of ``y = W x``, feature-major as that is."""
    build, behind = layouts.build, linear.behind
    if behind.scale != 1.0:
        y = replace(y, value=build.op("Mul", y.value, _number(layouts, linear, behind.scale)))
    if linear.bias is not None:
        y = _with_bias(layouts, linear, linear.bias, y)
    if behind.activation:
        y = replace(y, value=build.op(behind.activation, y.value, **dict(behind.parameters)))
    return y


def _with_bias(layouts: Layouts, linear: Linear, bias: ir.Value, y: Feature) -> Feature:
    dims = tuple(tensor_of(bias).shape.numpy()) if is_constant(bias) else ()
    is_vector = dims in ((y.channels,), (1, y.channels)) and not _is_crosswise(linear)
    if not y.complete or not is_vector:
        y = layouts.make_ordered(y)
    if is_vector:
        addend = column(layouts, bias, y)
    else:
        addend = bias if is_constant(bias) else layouts.make_row_major(bias)
        addend = addend if _is_crosswise(linear) else _upended(layouts, addend)
    if linear.behind.bias_scale != 1.0:
        addend = layouts.build.op("Mul", addend, _number(layouts, linear, linear.behind.bias_scale))
    return replace(y, value=layouts.build.op("Add", y.value, addend))


def _is_crosswise(linear: Linear) -> bool:
    """True where a bias has the axes of ``y`` feature-major already: that of a ``Gemm`` with its constant on the
    left."""
    return linear.channels_first and not linear.is_convolution


def _upended(layouts: Layouts, bias: ir.Value) -> ir.Value:
    """Whatever broadcasts to ``[S, m]`` as what broadcasts to ``[m, S]``."""
    rank = len(tensor_of(bias).shape) if is_constant(bias) else len(bias.shape or ())
    if rank == 0:
        return bias
    if rank == 1:
        return layouts.build.op("Reshape", bias, layouts.build.integers(-1, 1))
    return layouts.build.op("Transpose", bias, perm=[1, 0])


def _number(layouts: Layouts, linear: Linear, number: float) -> ir.Value:
    dtype = linear.dtype
    return layouts.build.constant(f"k/{number}/{dtype}", np.array(number, dtype))
