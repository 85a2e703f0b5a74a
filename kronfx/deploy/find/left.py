"""Constants with zero blocks that no linear map took: what could be faster, or smaller, and why it is not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.grid import grid_of
from kronfx.deploy.find.ground import ground_of
from kronfx.deploy.find.layers import LinearMaps
from kronfx.deploy.find.spellings import spelled
from kronfx.deploy.find.stored import LeftConstant
from kronfx.deploy.nodes.values import Array
from kronfx.deploy.records.report import LeftWeight
from kronfx.deploy.storage import survivors

SIDE = 64  # entries: a matrix with a shorter side would win little
SHARE = 0.1  # of the blocks: fewer zero ones would win little
_SMALL = (ir.DataType.INT8, ir.DataType.UINT8)
_THROUGH = {"Cast", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def left_constants(graph: ir.Graph, maps: LinearMaps, block: tuple[int, int] | None) -> tuple[LeftConstant, ...]:
    """Every constant of the graph and its bodies with a tenth of its blocks zero that is no weight of ``maps``; on the
    grid of ``block`` where that divides it, else the detected one."""
    taken = {layer.linear.weight for layer in maps.layers} | {weight.value for weight in maps.unread}
    parts = ((packed.weight, packed.scales, packed.zeros) for packed in maps.packed)
    taken |= {part for trio in parts for part in trio if part is not None}
    constants = [value for part in (graph, *graph.subgraphs()) for value in part.initializers.values()]
    weights = (_left(graph, value, block) for value in constants if value not in taken)
    return tuple(weight for weight in weights if weight is not None)


def left_weights(left: tuple[LeftConstant, ...]) -> tuple[LeftWeight, ...]:
    """The report's lines: of those with at least 64 entries a side that are not even stored in blocks."""
    return tuple(_line(one) for one in left if one.storage is None and min(one.survivors.dims) >= SIDE)


def _line(one: LeftConstant) -> LeftWeight:
    m, n = one.survivors.dims
    return LeftWeight(
        name=one.name,
        m=m,
        n=n,
        block=one.survivors.shape.block,
        zero_blocks=one.survivors.zero_blocks,
        blocks=one.survivors.shape.blocks,
        why=one.why,
    )


def _left(graph: ir.Graph, value: ir.Value, block: tuple[int, int] | None) -> LeftConstant | None:
    W = _matrix(value)
    if W is None or not W.size:
        return None
    m, n = W.shape
    ground = ground_of(value, (m, n))
    alive = ground != W
    if np.count_nonzero(alive) > (1 - SHARE) * alive.size:
        return None
    divides = block is not None and m % block[0] == 0 and n % block[1] == 0
    shape = grid_of(alive, block if divides else None)
    found = survivors(W, shape, ground)
    if found.zero_blocks < SHARE * shape.blocks:
        return None
    return LeftConstant(value, found, _why(graph, value), graph.initializers.get(value.name or "") is not value)


def _matrix(value: ir.Value) -> Array | None:
    """A floating or 8-bit constant with its leading axes as one, a kernel with all but the first as one."""
    tensor = value.const_value
    if tensor is None or len(tensor.shape) < 2 or not tensor.size:
        return None
    if not tensor.dtype.is_floating_point() and tensor.dtype not in _SMALL:
        return None
    array = tensor.numpy()
    is_kernel = any("Conv" in node.op_type for node in _readers(value))
    return array.reshape(len(array), -1) if is_kernel else array.reshape(-1, array.shape[-1])


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
