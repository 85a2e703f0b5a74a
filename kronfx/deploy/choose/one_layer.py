"""One linear map on its own: a graph of nothing else, lowered like the whole, to be timed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from kronfx.deploy.find.layers import Layer, LinearMaps
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings import find
from kronfx.deploy.lower.rewrite import rewrite
from kronfx.deploy.nodes.values import Array, tensor_of
from kronfx.records import Lowering

_OPSETS = {"": 21, "com.microsoft": 1}


def alone(layer: Layer, lowering: Lowering, rows: int) -> tuple[ir.Model, Array]:
    """A graph of nothing but this layer, lowered, and an input for it.

    An 8-bit product comes with what makes its input 8-bit and its sums floating numbers again: onnxruntime fuses them
    with the dense product, and the lowerings with theirs, so that either without them tells little.
    """
    linear = layer.linear
    dims = _dims(layer, rows)
    kind = _kind(linear)
    axes: list[str | int] = [f"d{i}" for i in range(len(dims))]
    axes[1 if linear.is_convolution else -2 if linear.has_channels_first else -1] = layer.survivors.dims[1]
    x = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(axes))
    is_dynamic = linear.zero_points is not None and linear.requantized is None
    nodes = _quantized(linear, x) if is_dynamic else _product(linear, x)
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(kind), ir.Shape([None] * len(dims))
    constants = {v: None for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    graph = ir.Graph([x], [y], nodes=nodes, initializers=list(constants), opset_imports=_OPSETS, name="alone")
    model = ir.Model(graph, ir_version=10)
    ShapeInferencePass()(model)
    (same,) = find(graph)
    rewrite(model, LinearMaps((replace(layer, linear=same),)), {same.node: lowering})
    numbers = np.random.default_rng(0).standard_normal(dims)
    return model, (numbers if kind.is_floating_point() else 20 * np.abs(numbers)).astype(kind.numpy())


def _dims(layer: Layer, rows: int) -> tuple[int, ...]:
    """Of an input of so many rows: one sequence, one picture, or a matrix."""
    linear, n = layer.linear, layer.survivors.dims[1]
    rank = 2 if linear.around else max(linear.rank or 2, 2)
    if linear.is_convolution:
        return (1, n, rows, *(1,) * (rank - 3))
    return (1,) * (rank - 2) + ((n, rows) if linear.has_channels_first else (rows, n))


def _quantized(linear: Linear, x: ir.Value) -> list[ir.Node]:
    """The product between a DynamicQuantizeLinear and the Cast and Mul behind it."""
    quantize = ir.Node("", "DynamicQuantizeLinear", [x], num_outputs=3)
    small, scale, zero_point = quantize.outputs
    x_zero = linear.zero_points[0] if linear.zero_points is not None else None
    replaced = {_read(linear): small} if x_zero is None else {_read(linear): small, x_zero: zero_point}
    product = _copy(linear.node, replaced)[-1]
    cast = ir.Node("", "Cast", product.outputs, [ir.AttrInt64("to", ir.DataType.FLOAT)])
    return [quantize, product, cast, ir.Node("", "Mul", [cast.outputs[0], scale])]


def _kind(linear: Linear) -> ir.DataType:
    """Of ``x``: what is quantized in the layer itself comes as floating numbers."""
    if linear.requantized is not None:
        return linear.x.dtype or ir.DataType.UINT8
    return ir.DataType.FLOAT if linear.zero_points is not None else ir.DataType.from_numpy(linear.dtype)


def _product(linear: Linear, x: ir.Value) -> list[ir.Node]:
    """The product of other rows: a bias for just as many as the graph has is left out."""
    bias = linear.bias
    dims = (1,) if bias is None or bias.const_value is None else tuple(tensor_of(bias).shape.numpy())
    nodes = _copy(linear.node, {_read(linear): x})
    rows = () if linear.is_convolution else dims[-1:] if linear.channels_first else dims[:-1]
    if any(dim != 1 for dim in rows):
        nodes[-1].replace_input_with(2, None)
    return nodes


def _read(linear: Linear) -> ir.Value:
    """What the node itself reads: ``x``, or what an exporter flattened of it."""
    flat = linear.node.inputs[0]
    return linear.x if flat is None or not linear.around else flat


def _copy(node: ir.Node, replaced: dict[ir.Value, ir.Value], name: str = "c") -> list[ir.Node]:
    """The node with other inputs, last, behind those that make its weight; constants are copied, for a value belongs to
    one graph."""
    inputs: list[ir.Value | None] = []
    before: list[ir.Node] = []
    for i, value in enumerate(node.inputs):
        tensor, maker = _constant(value), value.producer() if value is not None else None
        if value in replaced:
            inputs.append(replaced[value])
        elif tensor is not None:
            inputs.append(ir.Value(name=f"{name}{i}", const_value=tensor))
        elif maker is not None and maker.op_type in ("DequantizeLinear", "Transpose") and _is_constant(maker):
            before += _copy(maker, {}, f"{name}{i}_")
            inputs.append(before[-1].outputs[0])
        else:
            inputs.append(None)
    return [*before, ir.Node(node.domain, node.op_type, inputs, node.attributes.values())]


def _is_constant(node: ir.Node) -> bool:
    """It computes with nothing but constants, as it is or through another one."""
    source = node.inputs[0]
    maker = source.producer() if source is not None else None
    return _constant(source) is not None or (maker is not None and _is_constant(maker))


def _constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """What a node reads, where that is a constant or the transpose of one."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    swap = value.producer()
    if swap is None or swap.op_type != "Transpose" or swap.inputs[0] is None or swap.inputs[0].const_value is None:
        return None
    return ir.tensor(np.ascontiguousarray(swap.inputs[0].const_value.numpy().T))
