"""``dense``: one matrix product with ``W [m, n]``, of which the file stores the surviving blocks."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from kronfx import kron
from kronfx.deploy.records import ExportedLayer
from kronfx.deploy.storage import Survivors, store, survivors
from kronfx.deploy.weights import Match, Weights, tensor_of
from kronfx.layers import BlockSparseLinear, FoldedWeight, KroneckerLinear


def module(layer: KroneckerLinear | BlockSparseLinear) -> BlockSparseLinear:
    """The folded layer itself, or what a factored one materializes to."""
    if isinstance(layer, BlockSparseLinear):
        return layer
    return BlockSparseLinear(layer.weight, layer.bias, layer.shape)


def settle(
    graph: ir.Graph, modules: Mapping[str, BlockSparseLinear | FoldedWeight | KroneckerLinear]
) -> tuple[ExportedLayer, ...]:
    """Store the surviving blocks of every weight, wherever that makes the file smaller."""
    stored: set[ir.Value] = set()
    layers = []
    for site, matches in _matched(graph, modules).items():
        fresh = [match for match in matches if match.value not in stored]  # tied layers share their constants
        stored.update(match.value for match in fresh)
        kept = survivors(matches[0].array, modules[site].shape)
        layers.append(_layer(site, kept, _store(graph, site, kept, fresh)))
    return tuple(layers)


def _matched(
    graph: ir.Graph, modules: Mapping[str, BlockSparseLinear | FoldedWeight | KroneckerLinear]
) -> dict[str, list[Match]]:
    """The constants of every site: those equal to its weight, else a free one with its pattern of zero blocks."""
    weights = Weights(graph)
    modules = {site: layer for site, layer in modules.items() if layer.weight.dim() == 2}  # no stack of experts
    found = {site: weights.equal(layer.weight) for site, layer in modules.items()}
    taken = {match.value for matches in found.values() for match in matches}
    for site, layer in modules.items():
        if not found[site] and layer.zero_blocks():
            alike = weights.alike(kron.block_mask(layer.weight, layer.shape).cpu().numpy(), layer.shape)
            found[site] = [match for match in alike if match.value not in taken][:1]
            taken.update(match.value for match in found[site])
    return {site: matches for site, matches in found.items() if matches}


def _store(graph: ir.Graph, site: str, kept: Survivors, matches: list[Match]) -> int:
    """Bytes of what is stored in the end."""
    is_output = any(match.value.is_graph_output() for match in matches)
    if not matches or is_output or not kept.pays:
        return sum(tensor_of(match.value).nbytes for match in matches)
    upright = [match.value for match in matches if not match.transposed]
    store(graph, site, kept, upright, [match.value for match in matches if match.transposed])
    return kept.bytes


def _layer(site: str, kept: Survivors, stored: int) -> ExportedLayer:
    shape, (m, n) = kept.shape, kept.dims
    dense = m * n * kept.blocks.itemsize
    return ExportedLayer(site, m, n, shape.block, "dense", kept.zero_blocks, shape.blocks, dense, stored)
