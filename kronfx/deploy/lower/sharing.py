"""Which layers find their blocks in what the file keeps of their weight for somebody else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import onnx_ir as ir

from kronfx.deploy.find.layers import Kept, Layer, LinearMaps
from kronfx.deploy.find.weights import Constant, Weights
from kronfx.deploy.nodes.values import is_constant, tensor_of
from kronfx.deploy.storage import Shared, Survivors
from kronfx.records import Lowering


def sharing(graph: ir.Graph, maps: LinearMaps, lowerings: Sequence[Lowering]) -> LinearMaps:
    """With the layers that run by blocks told where these are: where their weight, or an equal one, is read by others
    as well, and so is in the file, or where it is multiplied with from both sides."""
    chosen = zip(maps.layers, lowerings, strict=True)
    sparse = [layer for layer, lowering in chosen if lowering == "blocks" and _is_floating(layer)]
    if not sparse:
        return maps
    nodes = {layer.linear.node for layer in sparse}
    left = [value for value in graph.initializers.values() if is_constant(value) and _is_left(value, nodes)]
    kept, constants = {one.value: one for one in reversed(list(maps.kept()))}, Weights(left)
    turns: dict[ir.Value, set[bool]] = {}
    for layer in sparse:
        turns.setdefault(layer.linear.weight, set()).add(layer.linear.transposed)
    found: dict[ir.Node, Shared | None] = {}
    for layer in sparse:
        equal = constants.equal(layer.linear.W)
        if not equal and len(turns[layer.linear.weight]) > 1:
            equal = [Constant(layer.linear.weight, layer.linear.transposed)]
        found[layer.linear.node] = _shared(layer, equal, (kept[one.value] for one in equal if one.value in kept))
    told = (layer.of(layer.linear, found.get(layer.linear.node)) for layer in maps.layers)
    return replace(maps, layers=tuple(told))


def _is_floating(layer: Layer) -> bool:
    return tensor_of(layer.linear.weight).dtype.is_floating_point()


def _shared(layer: Layer, equal: Sequence[Constant], kept: Iterable[Kept]) -> Shared | None:
    """Where the blocks of a layer are, whose weight is that of these constants: with the first one of them that is
    ``kept``, as ``storage.store`` rebuilds it."""
    transposed = {constant.value: constant.transposed for constant in equal}
    for one in kept:
        if not isinstance(one.storage, Survivors):
            continue
        is_transposed = one.transposed != transposed[one.value]  # it keeps the blocks of W^T
        is_rebuilt_upright = any(is_so == is_transposed for is_so in transposed.values())
        alive = one.storage if is_rebuilt_upright else one.storage.T
        is_transposed = is_transposed == is_rebuilt_upright
        shape = alive.shape.T if is_transposed else alive.shape
        return Shared(one.name, alive, is_transposed) if shape == layer.shape else None
    return None


def _is_left(value: ir.Value, nodes: set[ir.Node]) -> bool:
    """It goes on being read once these nodes are gone, and need not be there as it is."""
    return not value.is_graph_output() and not set(_readers(value)) <= nodes


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that read a value or its transpose."""
    for node in value.consumers():
        if node.op_type == "Transpose" and not node.outputs[0].is_graph_output():
            yield from _readers(node.outputs[0])
        else:
            yield node
