"""``factors``: the layer's own evaluation, on operands computed once; nothing is left to do on the parameters."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from torch import Tensor, nn

from kronfx import kron
from kronfx.deploy.records import ExportedLayer
from kronfx.deploy.weights import Weights, tensor_of
from kronfx.layers import KroneckerLinear


class StoredFactors(KroneckerLinear):
    """``y [..., m] = x [..., n] W^T + bias`` by two products with the constants ``left`` and ``right``.

    ``a_first``: ``left [m1 r, n1]``, ``right [r n2, m2]``; ``b_first``: ``left [m1, n1 r]``, ``right [n2, r m2]`` (see
    ``kronfx.kron``). Being a factored layer, it answers all that other modules ask of the one it stands for; its
    ``weight`` is a constant too, in the file only if someone asks (``nn.MultiheadAttention`` never calls ``out_proj``).
    """

    left: Tensor
    right: Tensor
    dense: Tensor

    def __init__(self, layer: KroneckerLinear) -> None:
        bias = layer.bias is not None
        super().__init__(layer.shape, layer.rank, layer.evaluation, bias, "meta", features=layer.features)
        self.S, self.A, self.B = (nn.Parameter(factor.detach()) for factor in (layer.S, layer.A, layer.B))
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach())
        operands = kron.a_first_operands if self.evaluation == "a_first" else kron.b_first_operands
        left, right = operands(self.S.detach(), self.A.detach(), self.B.detach())
        self.register_buffer("left", left.contiguous())
        self.register_buffer("right", right.contiguous())
        self.register_buffer("dense", layer.weight.detach())

    @property
    def weight(self) -> Tensor:
        """``W [m, n]``, materialized once."""
        return self.dense

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., n] -> [..., m]``."""
        evaluate = kron.apply_a_first if self.evaluation == "a_first" else kron.apply_b_first
        return self.finished(evaluate(self.widened(x), self.left, self.right, self.shape, self.rank))


def module(layer: KroneckerLinear) -> StoredFactors:
    """The evaluation of a factored layer on stored operands."""
    return StoredFactors(layer)


def settle(graph: ir.Graph, modules: Mapping[str, StoredFactors]) -> tuple[ExportedLayer, ...]:
    """The operands are stored as they are: only find them."""
    weights = Weights(graph)
    counted: set[ir.Value] = set()
    layers = []
    for site, stored in modules.items():
        operands = {match.value for matrix in (stored.left, stored.right) for match in weights.equal(matrix)}
        if operands:
            bytes_stored = sum(tensor_of(value).nbytes for value in operands - counted)
            layers.append(_layer(site, stored, bytes_stored))
            counted |= operands
    return tuple(layers)


def _layer(site: str, layer: KroneckerLinear, stored: int) -> ExportedLayer:
    m, n, shape = layer.out_features, layer.in_features, layer.shape
    dense = m * n * layer.A.element_size()
    return ExportedLayer(site, m, n, shape.block, "factors", layer.zero_blocks(), shape.blocks, dense, stored)
