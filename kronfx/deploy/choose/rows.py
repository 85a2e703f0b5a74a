"""The rows of the report: what each linear map becomes and what the file stores for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from kronfx.deploy.choose.tuning import Contender
from kronfx.deploy.find.known import KnownWeight, PlacedWeight
from kronfx.deploy.find.layers import Layer, LinearMaps
from kronfx.deploy.find.packed import Packed
from kronfx.deploy.find.spellings import spelled
from kronfx.deploy.find.stored import LeftConstant
from kronfx.deploy.lower.lowerings import LOWERINGS
from kronfx.deploy.nodes.values import content, tensor_of
from kronfx.deploy.records.report import ExportedLayer
from kronfx.deploy.storage import Survivors, survivors
from kronfx.page import BlockMap, block_map, cells_a_side
from kronfx.records import Lowering

_STORED = "only stored in blocks"
_UNREAD = "no product that kronfx knows reads it, so that it is only stored"
_SHARED = "; its blocks are stored once for all that reads its weight"
_CONVOLVES = "factors: a convolution runs as it was trained,"
_PACKED = "it runs as its source does, in few bits"


def exported(maps: LinearMaps, contender: Contender) -> tuple[ExportedLayer, ...]:
    """A row for every weight of a linear map, and for whatever else is known or kept in another way, in the order of
    the graph."""
    rows: dict[str, tuple[ir.Node | None, ExportedLayer]] = {}
    stored: set[object] = set()
    names: dict[tuple[ir.Value, bool], str] = {}
    side = cells_a_side(len(maps.layers) + len(maps.convolutions))
    chosen = zip(contender.lowerings, contender.whys, contender.laps, strict=True)
    for layer, (lowering, why, laps) in zip(maps.layers, chosen, strict=True):
        entry = _entry(layer, lowering)
        size = 0 if entry in stored else LOWERINGS[lowering].stored(layer)
        stored.add(entry)
        key = layer.linear.weight, layer.linear.transposed
        name = names.setdefault(key, layer.name if layer.name not in rows else f"{layer.name}/{len(rows)}")
        row = _layer_row(layer, name, lowering, size, why)
        row = replace(row, laps=laps, map=_map(layer.survivors, side) if row.block else None)
        rows.setdefault(name, (layer.linear.node, row))
    for convolution in maps.convolutions:
        rows.setdefault(convolution.origin.site, (convolution.node, _convolution_row(convolution.origin, side)))
    for weight in maps.unread:
        row = _constant_row(weight, weight.origin.site, _why_unread(weight.value))
        rows.setdefault(row.site, (_reader(weight.value), replace(row, map=_map(weight.survivors, side))))
    for packed in maps.packed:
        rows.setdefault(packed.site, (packed.node, _packed_row(packed)))
    for left in maps.left:
        if left.storage is not None:
            row = _constant_row(left, left.name, f"{_STORED}: {left.why}")
            rows.setdefault(left.name, (_reader(left.value), row))
    return _in_order(rows.values())


def _in_order(rows: Iterable[tuple[ir.Node | None, ExportedLayer]]) -> tuple[ExportedLayer, ...]:
    """By the places of their nodes in the graphs that these are in: clones of one."""
    rows = tuple(rows)
    graphs = {node.graph for node, _ in rows if node is not None}
    places: dict[ir.Node | None, int] = {
        node: place for graph in graphs if graph is not None for place, node in enumerate(graph)
    }
    return tuple(row for _, row in sorted(rows, key=lambda pair: places.get(pair[0], len(places))))


def _reader(value: ir.Value) -> ir.Node | None:
    return next(iter(value.consumers()), None)


def _why_unread(value: ir.Value) -> str:
    reasons = [(node.op_type, answer) for node in value.consumers() if isinstance(answer := spelled(node), str)]
    return f"dense: {' '.join(reasons[0])}" if reasons else _UNREAD


def _entry(layer: Layer, lowering: Lowering) -> object:
    """What layers that share what is stored have in common: a weight that runs dense and its transpose are one."""
    if lowering != "dense":
        return layer.name, lowering
    W = layer.linear.W
    return layer.linear.weight if layer.storage is None else frozenset((content(W), content(W.T)))


def _map(alive: Survivors, side: int) -> BlockMap | None:
    """The norms of the surviving blocks; None where the others are not zero."""
    if alive.ground.any():
        return None
    norms = np.zeros(alive.mask.shape)
    norms[alive.mask] = np.linalg.norm(alive.blocks.astype(np.float64), axis=(1, 2))
    return block_map(norms, side)


def _layer_row(layer: Layer, name: str, lowering: Lowering, size: int, why: str) -> ExportedLayer:
    m, n = layer.survivors.dims
    has_grid = layer.shape.blocks > 1
    return ExportedLayer(
        site=name,
        m=m,
        n=n,
        block=layer.shape.block if has_grid else None,
        lowering=lowering,
        zero_blocks=layer.survivors.zero_blocks if has_grid else 0,
        blocks=layer.shape.blocks if has_grid else 0,
        dense_bytes=layer.dense_bytes,
        bytes=size,
        why=why if layer.shared is None else why + _SHARED,
        factored=layer.origin.evaluated if lowering == "factors" and layer.origin is not None else None,
    )


def _convolution_row(known: KnownWeight, side: int) -> ExportedLayer:
    alive, evaluated = survivors(known.W, known.shape), known.evaluated
    (m, n), (m2, n2), itemsize = alive.dims, known.shape.block, known.W.itemsize
    rank = 0 if evaluated is None else evaluated.rank
    return ExportedLayer(
        site=known.site,
        m=m,
        n=n,
        block=known.shape.block,
        lowering="factors",
        zero_blocks=alive.zero_blocks,
        blocks=known.shape.blocks,
        dense_bytes=m * n * itemsize,
        bytes=rank * (known.shape.blocks + m2 * n2) * itemsize,
        why=f"{_CONVOLVES} {known.evaluation}",
        map=_map(alive, side),
        factored=evaluated,
    )


def _packed_row(packed: Packed) -> ExportedLayer:
    (m, n), blobs = packed.dims, packed.survivors[0]
    return ExportedLayer(
        site=packed.site,
        m=m,
        n=n,
        block=packed.block,
        lowering="dense",
        zero_blocks=blobs.zero_blocks,
        blocks=blobs.shape.blocks,
        dense_bytes=packed.dense_bytes,
        bytes=packed.bytes,
        why=_PACKED,
    )


def _constant_row(constant: PlacedWeight | LeftConstant, site: str, why: str) -> ExportedLayer:
    alive, dense = constant.survivors, tensor_of(constant.value).nbytes
    m, n = alive.dims
    return ExportedLayer(
        site=site,
        m=m,
        n=n,
        block=alive.shape.block,
        lowering="dense",
        zero_blocks=alive.zero_blocks,
        blocks=alive.shape.blocks,
        dense_bytes=dense,
        bytes=constant.storage.bytes if constant.storage is not None else dense,
        why=why,
    )
