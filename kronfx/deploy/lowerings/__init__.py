"""Lowerings: what a rewritten layer becomes in the file. One module each, all with the same two functions:

- ``module(layer)``: what stands for the layer while the exporter looks at the model;
- ``settle(graph, modules)``: given the exported graph and those modules by site, bring the constants into
  their stored form and say what lies in the file. A layer that the model never calls is not in the file, nor
  in the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from torch import nn

from kronfx.deploy.lowerings import dense, factors
from kronfx.deploy.records import ExportedLayer
from kronfx.layers import (
    BlockSparseLinear,
    FoldedWeight,
    KroneckerConv,
    KroneckerLinear,
    folded_layers,
    site_name,
)

Weight = BlockSparseLinear | FoldedWeight | factors.StoredFactors


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model with its lowerings in place, and these by site, in the model's order."""

    model: nn.Module
    sites: dict[str, Weight]

    def settle(self, graph: ir.Graph) -> tuple[ExportedLayer, ...]:
        """Bring the graph's constants into their stored form; one entry for every layer in the file."""
        called = factors.settle(graph, {s: m for s, m in self.sites.items() if isinstance(m, factors.StoredFactors)})
        settled = {layer.site: layer for layer in called}
        # What is left is folded, or factored and never called but asked for its weight.
        left = dense.settle(graph, {site: m for site, m in self.sites.items() if site not in settled})
        settled |= {layer.site: layer for layer in left}
        return tuple(settled[site] for site in self.sites if site in settled)


def lower(model: nn.Module) -> Lowered:
    """Put its lowering in the place of every rewritten layer, in the model itself."""
    made: dict[nn.Module, nn.Module] = {}
    sites: dict[str, Weight] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, (KroneckerLinear, BlockSparseLinear)) and not isinstance(layer, KroneckerConv):
            made[layer] = sites[site_name(path)] = _lowered(layer)
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children would hide the second use of a tied layer
            if child in made:
                parent.register_module(name, made[child])
    for site, weight in folded_layers(model).items():
        if weight.weight.dim() == 2:  # a stack of experts is stored dense
            sites.setdefault(site, weight)
    return Lowered(made.get(model, model), sites)


def _lowered(layer: KroneckerLinear | BlockSparseLinear) -> BlockSparseLinear | factors.StoredFactors:
    """A factored layer runs its factors, unless its evaluation is the dense product."""
    if isinstance(layer, KroneckerLinear) and layer.evaluation != "materialize":
        return factors.module(layer)
    return dense.module(layer)
