"""The rows of the report: what each linear map becomes and what the file stores for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from kronfx.deploy.choose.tuning import Contender
from kronfx.deploy.find.known import PlacedWeight
from kronfx.deploy.find.layers import Layer, LinearMaps
from kronfx.deploy.find.packed import Packed
from kronfx.deploy.find.stored import LeftConstant
from kronfx.deploy.lower.lowerings import LOWERINGS
from kronfx.deploy.nodes.values import content, tensor_of
from kronfx.deploy.records.report import ExportedLayer
from kronfx.deploy.storage import Survivors
from kronfx.page import BlockMap, block_map, cells_a_side
from kronfx.records import Lowering

_STORED = "only stored in blocks"
_UNREAD = "no product that kronfx knows reads it, so that it is only stored"
_SHARED = "; its blocks are stored once for all that reads its weight"
_PACKED = "it runs as its source does, in few bits"


def exported(maps: LinearMaps, contender: Contender) -> tuple[ExportedLayer, ...]:
    """A row for every weight of a linear map, in their order, then for the known weights that none reads."""
    rows: dict[str, ExportedLayer] = {}
    stored: set[object] = set()
    names: dict[tuple[ir.Value, bool], str] = {}
    side = cells_a_side(len(maps.layers))
    chosen = zip(contender.lowerings, contender.whys, contender.laps, strict=True)
    for layer, (lowering, why, laps) in zip(maps.layers, chosen, strict=True):
        entry = _entry(layer, lowering)
        size = 0 if entry in stored else LOWERINGS[lowering].stored(layer)
        stored.add(entry)
        key = layer.linear.weight, layer.linear.transposed
        name = names.setdefault(key, layer.name if layer.name not in rows else f"{layer.name}/{len(rows)}")
        row = _layer_row(layer, name, lowering, size, why)
        rows.setdefault(name, replace(row, laps=laps, map=_map(layer.survivors, side) if row.block else None))
    for weight in maps.unread:
        rows.setdefault(weight.origin.site, _constant_row(weight, weight.origin.site, _UNREAD))
    for packed in maps.packed:
        rows.setdefault(packed.site, _packed_row(packed))
    for left in maps.left:
        if left.storage is not None:
            rows.setdefault(left.name, _constant_row(left, left.name, f"{_STORED}: {left.why}"))
    return tuple(rows.values())


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
