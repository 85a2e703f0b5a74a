"""Constants with zero blocks that no linear map took: what could be smaller or faster, and why it is not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.grid import grid_of
from kronfx.deploy.find.layers import LinearMaps
from kronfx.deploy.find.spellings import spelled
from kronfx.deploy.nodes.values import Array, is_constant, tensor_of
from kronfx.deploy.records.report import LeftWeight
from kronfx.deploy.storage import survivors

SIDE = 64  # entries: a matrix with a shorter side would win little
SHARE = 0.1  # of the blocks: fewer zero ones would win little
_SMALL = (ir.DataType.INT8, ir.DataType.UINT8)
_THROUGH = {"Cast", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def left_weights(graph: ir.Graph, maps: LinearMaps, block: tuple[int, int] | None) -> tuple[LeftWeight, ...]:
    """Every constant of the graph and its bodies with at least 64 entries a side and a tenth of its blocks zero that is
    no weight of ``maps``; on the grid of ``block`` where that divides it, else the detected one."""
    taken = {layer.linear.weight for layer in maps.layers} | {weight.value for weight in maps.unread}
    taken |= {part for packed in maps.packed for part in (packed.weight, packed.scales)}
    constants = [value for part in (graph, *graph.subgraphs()) for value in part.initializers.values()]
    weights = (_left(graph, value, block) for value in constants if value not in taken)
    return tuple(weight for weight in weights if weight is not None)


def _left(graph: ir.Graph, value: ir.Value, block: tuple[int, int] | None) -> LeftWeight | None:
    W = _matrix(value)
    if W is None or min(W.shape) < SIDE or np.count_nonzero(W) > (1 - SHARE) * W.size:
        return None
    m, n = W.shape
    divides = block is not None and m % block[0] == 0 and n % block[1] == 0
    shape = grid_of(W, block if divides else None)
    zero = survivors(W, shape).zero_blocks
    if zero < SHARE * shape.blocks:
        return None
    return LeftWeight(
        name=value.name or "",
        m=m,
        n=n,
        block=shape.block,
        zero_blocks=zero,
        blocks=shape.blocks,
        why=_why(graph, value),
    )


def _matrix(value: ir.Value) -> Array | None:
    """A floating or 8-bit constant with its leading axes as one, a kernel with all but the first as one."""
    tensor = value.const_value
    if tensor is None or len(tensor.shape) < 2 or not tensor.size:
        return None
    if not tensor.dtype.is_floating_point() and tensor.dtype not in _SMALL:
        return None
    array = _less_zero_point(value, tensor.numpy())
    is_kernel = any(node.op_type.startswith("Conv") for node in _readers(value))
    return array.reshape(len(array), -1) if is_kernel else array.reshape(-1, array.shape[-1])


def _less_zero_point(value: ir.Value, array: Array) -> Array:
    """8-bit numbers as their DequantizeLinear takes them, but for the scale."""
    for node in value.consumers():
        zero = node.inputs[2] if node.op_type == "DequantizeLinear" and len(node.inputs) > 2 else None
        if zero is None or not is_constant(zero):
            continue
        points = tensor_of(zero).numpy().reshape(-1)
        axis = node.attributes.get_int("axis", 1) % array.ndim
        if len(points) in (1, array.shape[axis]):
            along = [1] * array.ndim
            along[axis] = len(points)
            less: Array = array.astype(np.int16) - points.astype(np.int16).reshape(along)
            return less
    return array


def _why(graph: ir.Graph, value: ir.Value) -> str:
    if value.is_graph_input():
        return "it is an input of the graph too, so that callers can replace it"
    reasons = dict.fromkeys(_reason(graph, node) for node in _readers(value))
    return "; ".join(reasons) or "no node computes with it"


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that compute with a constant, as it is or cast, dequantized, transposed or reshaped."""
    for node in value.consumers():
        if node.op_type in _THROUGH:
            for output in node.outputs:
                yield from _readers(output)
        else:
            yield node


def _reason(graph: ir.Graph, node: ir.Node) -> str:
    if node.graph is not graph:
        return f"{node.op_type} reads it in the body of an If, Loop or Scan, and bodies are left as they are"
    answer = spelled(node)
    if isinstance(answer, str):
        return f"{node.op_type} {answer}"
    return f"{node.op_type} reads it, which is no product that kronfx takes"
