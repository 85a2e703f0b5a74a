"""``Conv`` with kernels of one tap: the same linear map of the channels at every position, or every so many."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from kronfx.deploy.find.dequantized import Scales, dequantized
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.operand import number
from kronfx.deploy.nodes.values import is_constant, tensor_of


def convolution(node: ir.Node) -> Linear | str | None:
    """``W [m, n, 1, ...]`` at the positions of ``x [..., n, S]``."""
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None:
        return None
    weight, scales = (weight, None) if is_constant(weight) else _weight_only(x, weight)
    if weight is None:
        return None
    if (more := next(_beyond_one_tap(node, tensor_of(weight), scales is not None), None)) is not None:
        return more
    if bias is not None and not is_constant(bias):
        return "computes its bias"
    steps = tuple(node.attributes.get_ints("strides", ()))
    return Linear(
        node=node,
        x=x,
        y=node.outputs[0],
        weight=weight,
        transposed=False,
        bias=bias,
        channels_first=True,
        strides=steps if max(steps, default=1) > 1 else (),
        scales=scales,
    )


def _weight_only(x: ir.Value, weight: ir.Value) -> tuple[ir.Value | None, Scales | None]:
    """Kernels that are quantized, of what is not: of what is, runtimes have a convolution of their own."""
    maker = x.producer()
    is_static = maker is not None and maker.op_type == "DequantizeLinear"
    return (None, None) if is_static else dequantized(weight) or (None, None)


def _beyond_one_tap(node: ir.Node, weight: ir.TensorProtocol, is_scaled: bool) -> Iterator[str]:
    """What makes it more than one matrix at every position."""
    kernel = tuple(weight.shape.numpy())[2:]
    if any(taps != 1 for taps in kernel):
        yield f"convolves with kernels of {'x'.join(map(str, kernel))} taps"
    if number(node, "group", 1) != 1:
        yield "convolves its channels in groups"
    if any(node.attributes.get_ints("pads", ())):  # auto_pad adds nothing to one tap
        yield "pads its input"
    if not weight.dtype.is_floating_point() and not is_scaled:
        yield f"convolves with weights of type {weight.dtype.name}, which are not floating"
