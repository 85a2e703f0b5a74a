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

_OPSETS = {"": 20, "com.microsoft": 1}


def alone(layer: Layer, lowering: Lowering, rows: int) -> tuple[ir.Model, Array]:
    """A graph of nothing but this layer, lowered, and an input for it.

    An 8-bit product comes with what makes its input 8-bit and its sums floating numbers again: onnxruntime fuses them
    with the dense product, and the lowerings with theirs, so that either without them tells little.
    """
    linear = layer.linear
    dims = _dims(layer, rows)
    kind = ir.DataType.FLOAT if linear.zero_points is not None else tensor_of(linear.weight).dtype
    axes: list[str | int] = [f"d{i}" for i in range(len(dims))]
    axes[1 if linear.is_convolution else -2 if linear.has_channels_first else -1] = layer.survivors.dims[1]
    x = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(axes))
    nodes = _quantized(linear, x) if linear.zero_points is not None else [_product(linear, x)]
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(kind), ir.Shape([None] * len(dims))
    constants = {v: None for node in nodes for v in node.inputs if v is not None and v.const_value is not None}
    graph = ir.Graph([x], [y], nodes=nodes, initializers=list(constants), opset_imports=_OPSETS, name="alone")
    model = ir.Model(graph, ir_version=10)
    ShapeInferencePass()(model)
    (same,) = find(graph)
    rewrite(model, LinearMaps((replace(layer, linear=same),)), {same.node: lowering})
    return model, np.random.default_rng(0).standard_normal(dims).astype(kind.numpy())


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
    product = _copy(linear.node, replaced)
    cast = ir.Node("", "Cast", product.outputs, [ir.AttrInt64("to", ir.DataType.FLOAT)])
    return [quantize, product, cast, ir.Node("", "Mul", [cast.outputs[0], scale])]


def _product(linear: Linear, x: ir.Value) -> ir.Node:
    """The product of other rows: a bias for just as many as the graph has is left out."""
    bias = linear.bias
    dims = (1,) if bias is None or bias.const_value is None else tuple(tensor_of(bias).shape.numpy())
    node = _copy(linear.node, {_read(linear): x})
    rows = () if linear.is_convolution else dims[-1:] if linear.channels_first else dims[:-1]
    if any(dim != 1 for dim in rows):
        node.replace_input_with(2, None)
    return node


def _read(linear: Linear) -> ir.Value:
    """What the node itself reads: ``x``, or what an exporter flattened of it."""
    flat = linear.node.inputs[0]
    return linear.x if flat is None or not linear.around else flat


def _copy(node: ir.Node, replaced: dict[ir.Value, ir.Value]) -> ir.Node:
    """The node with other inputs; constants are copied, for a value belongs to one graph."""
    inputs: list[ir.Value | None] = []
    for i, value in enumerate(node.inputs):
        tensor = _constant(value)
        copied = ir.Value(name=f"c{i}", const_value=tensor) if tensor is not None else None
        inputs.append(replaced.get(value) or copied)  # type: ignore[arg-type]
    return ir.Node(node.domain, node.op_type, inputs, node.attributes.values())


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
