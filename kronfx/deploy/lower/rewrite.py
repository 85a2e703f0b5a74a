"""The pass: every linear map of a graph gets its lowering, and what lies between them the layout that suits both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from kronfx.deploy.find.layers import Layer, LinearMaps
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.names import Scope, scope_of
from kronfx.deploy.find.weights import Weights
from kronfx.deploy.lower.behind import finished
from kronfx.deploy.lower.labels import Labels, owners
from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.lower.lowerings import LOWERINGS, Emit
from kronfx.deploy.lower.operators import RULES
from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import tensor_of
from kronfx.deploy.storage import store
from kronfx.records import Lowering

SHORT = 32  # a sequence of fixed length below this is not worth products of its own: all rows go into one


def rewrite(model: ir.Model, maps: LinearMaps, chosen: Mapping[ir.Node, Lowering]) -> None:
    """Lower each layer's node as chosen, in place, front to back; store what remains dense in few bytes."""
    _lower(model.graph, {layer.linear.node: layer for layer in maps.layers}, chosen)
    RemoveUnusedNodesPass()(model)
    _store(model.graph, maps)


def _lower(graph: ir.Graph, layers: Mapping[ir.Node, Layer], chosen: Mapping[ir.Node, Lowering]) -> None:
    build = Builder(graph)
    layouts, labels = Layouts(build), Labels()
    replaced: list[ir.Node] = []
    emits = {node: emit for node in layers if (emit := LOWERINGS[chosen[node]].emit) is not None}
    groups = _groups({node: layers[node] for node in emits}, chosen)
    for node in list(graph):
        build.anchor, start = node, len(build.made)
        if node in layouts.skipped or node in emits:
            replaced.append(node)
            if node in groups:
                _emit(layouts, groups[node], emits[node], labels)
        elif any(layouts.is_lazy(value) for value in _read(node)):
            rule = RULES.get(node.op_type) if node.domain == "" else None
            if rule is not None and any(map(layouts.is_lazy, node.inputs)) and rule(layouts, node):
                replaced.append(node)
            else:
                for value in list(_read(node)):
                    layouts.make_row_major(value)
            labels.note(build.made[start:], _scopes(node))
    build.anchor = None
    for value in list(graph.outputs):
        start, maker = len(build.made), value.producer()
        layouts.make_row_major(value)
        labels.note(build.made[start:], [] if maker is None else _scopes(maker))
    for node in reversed(replaced):
        graph.remove(node, safe=True)
    labels.put(graph)
    graph.sort()  # what quantizes a value may have moved behind nodes that read its scale


def _scopes(node: ir.Node) -> list[Scope]:
    scope = scope_of(node)
    return [] if scope is None else [scope]


def _groups(layers: Mapping[ir.Node, Layer], chosen: Mapping[ir.Node, Lowering]) -> dict[ir.Node, list[Layer]]:
    """Layers of one lowering and block size that read the same ``x``, by the node of the first.

    A weight that several maps share is stored once only if it is stacked in one way: its maps stay alone where their
    companions differ. So they do beside a map that nobody reads, which goes away if it is alone.
    """
    beside: dict[object, list[Layer]] = {}
    for node, layer in layers.items():
        linear = layer.linear
        source = linear.x, linear.has_channels_first, linear.strides
        small = None if linear.zero_points is None else (linear.zero_points[0], linear.shift)
        alike = *source, linear.dtype, small, linear.scales is None, linear.requantized
        beside.setdefault((chosen[node], layer.shape.n2, layer.shape.m2, node.op_type, *alike), []).append(layer)
    named = [(tuple(layer.name for layer in group), group) for group in beside.values()]
    companions: dict[str, set[tuple[str, ...]]] = {}
    for names, _ in named:
        for name in names:
            companions.setdefault(name, set()).add(names)
    groups = []
    for names, group in named:
        read = all(layer.linear.y.uses() or layer.linear.y.is_graph_output() for layer in group)
        shared = any(layer.shared is not None for layer in group)
        alone = shared or len(set(names)) < len(names) or any(len(companions[name]) > 1 for name in names)
        groups += [group] if read and not alone else [[layer] for layer in group]
    return {group[0].linear.node: group for group in groups}


def _emit(layouts: Layouts, layers: Sequence[Layer], emit: Emit, labels: Labels) -> None:
    made, start = layouts.build.made, len(layouts.build.made)
    x = _input(layouts, layers[0].linear)
    ys, scopes = emit(layouts, layers, x), [Scope(layer.name, layer.folder) for layer in layers]
    for node, places in owners(made[start:], [y.value for y in ys]).items():
        labels.note([node], [scopes[place] for place in places] or scopes)
    for layer, scope, y in zip(layers, scopes, ys, strict=True):
        start = len(made)
        _define(layouts, layer.linear, y, x)
        labels.note(made[start:], [scope])


def _define(layouts: Layouts, linear: Linear, y: Feature, x: Feature) -> None:
    """What reads the layer's output reads ``y``, and what its node does behind it, from now on."""
    y = finished(layouts, linear, y)
    if linear.channels_first:
        layouts.replace(linear.y, _reshaped(layouts, linear, layouts.make_ordered(y).value))
    elif x.rank != linear.rank:
        rows = layouts.build.op("Transpose", layouts.make_ordered(y).value, perm=[1, 0])
        layouts.replace(linear.y, _reshaped(layouts, linear, rows))
    else:
        layouts.define(linear.y, y)
    layouts.skip(*linear.around)


def _input(layouts: Layouts, linear: Linear) -> Feature:
    """``x`` feature-major: as it is, transposed, or all rows of many short sequences as one."""
    n, rank = linear.dims[1], linear.rank or 0
    if linear.is_convolution:
        return Feature(_reshape(layouts, _positions(layouts, linear), 0, n, -1), 3, n)
    if linear.has_channels_first:
        return Feature(layouts.make_row_major(linear.x), rank, n)
    if rank < 3 or (rank == 3 and not _is_short(linear.x)) or linear.x_transposed:
        return layouts.make_feature_major(linear.x, n)
    rows = _reshape(layouts, layouts.make_row_major(linear.x), -1, n)
    return Feature(layouts.build.op("Transpose", rows, perm=[1, 0]), 2, n)


def _positions(layouts: Layouts, linear: Linear) -> ir.Value:
    """What a convolution reads of ``x``: all of it, or every so many positions."""
    x, build, axes = layouts.make_row_major(linear.x), layouts.build, len(linear.strides)
    if not axes:
        return x
    starts, ends = build.integers(*(0,) * axes), build.integers(*(2**31 - 1,) * axes)
    return build.op("Slice", x, starts, ends, build.integers(*range(2, 2 + axes)), build.integers(*linear.strides))


def _is_short(value: ir.Value) -> bool:
    length = value.shape[-2] if value.shape is not None else None
    return isinstance(length, int) and length < SHORT


def _reshaped(layouts: Layouts, linear: Linear, y: ir.Value) -> ir.Value:
    """``y`` with the axes of ``x`` around the features."""
    build, rank, m = layouts.build, linear.rank or 0, linear.dims[0]
    if linear.channels_first and not linear.is_convolution:
        return y
    dims = build.op("Shape", _positions(layouts, linear))
    before, after = (1, rank - 2) if linear.channels_first else (rank - 1, 0)
    parts = [build.op("Slice", dims, build.integers(0), build.integers(before), build.integers(0)), build.integers(m)]
    if after:
        parts.append(build.op("Slice", dims, build.integers(2), build.integers(rank), build.integers(0)))
    return build.op("Reshape", y, build.op("Concat", *parts, axis=0))


def _reshape(layouts: Layouts, value: ir.Value, *dims: int) -> ir.Value:
    return layouts.build.op("Reshape", value, layouts.build.integers(*dims))


def _store(graph: ir.Graph, maps: LinearMaps) -> None:
    """Constants that are still there are stored in as few bytes as can be, equal ones once."""
    weights = Weights(graph.initializers.values())
    done: set[ir.Value] = set()
    for kept in maps.kept():
        value = kept.value
        if value in done or not _is_stored(graph, value):
            continue
        same = [match.value for match in weights.equal(tensor_of(value).numpy()) if not match.transposed]
        other = [match.value for match in weights.equal(tensor_of(value).numpy()) if match.transposed]
        same = [match for match in {value, *same} if _is_stored(graph, match)]
        other = [match for match in other if _is_stored(graph, match)]
        done.update(same, other)
        store(graph, kept.name, kept.storage, *((other, same) if kept.transposed else (same, other)))
    for packed in maps.packed:
        if packed.storage is not None:
            blobs, scales = packed.storage
            store(graph, packed.site, blobs, [graph.initializers[packed.weight.name or ""]], [])
            store(graph, f"{packed.site}/scales", scales, [graph.initializers[packed.scales.name or ""]], [])


def _is_stored(graph: ir.Graph, value: ir.Value) -> bool:
    """In the graph still, read by nodes, and not handed out by it."""
    ours = graph.initializers.get(value.name or "") is value
    return ours and not value.is_graph_output() and not value.is_graph_input() and bool(value.uses())


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Everything a node reads, bodies of ``If`` and ``Loop`` included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            yield from body.outputs
            for inner in ir.traversal.RecursiveGraphIterator(body):
                yield from (value for value in inner.inputs if value is not None)
