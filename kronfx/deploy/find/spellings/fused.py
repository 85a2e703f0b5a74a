"""``FusedMatMul`` and ``FusedGemm``: what onnxruntime saves when it has optimized a graph."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from kronfx.deploy.find.linear import Behind, Linear
from kronfx.deploy.find.spellings.gemm import general, swapped
from kronfx.deploy.find.spellings.operand import number
from kronfx.deploy.find.spellings.product import product

# ONNX's own operators that it fuses, and their attributes among the node's.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}


def fused_matmul(node: ir.Node) -> Linear | str | None:
    """``alpha A B``, the last two axes of either swapped first."""
    if number(node, "transBatchA", 0) or number(node, "transBatchB", 0):
        return "moves its batch behind the rows (transBatchA, transBatchB)"
    answer = product(node, swapped(node))
    return replace(answer, behind=Behind(number(node, "alpha", 1.0))) if isinstance(answer, Linear) else answer


def fused_gemm(node: ir.Node) -> Linear | str | None:
    """A ``Gemm`` and what its activation makes of it."""
    activation = node.attributes.get_string("activation", "")
    if activation not in _ACTIVATIONS:
        return f"ends in an activation that kronfx does not know ({activation})"
    names = [name for name in _ACTIVATIONS[activation] if f"activation_{name}" in node.attributes]
    parameters = tuple((name, number(node, f"activation_{name}", 0.0)) for name in names)
    return general(node, Behind(activation=activation, parameters=parameters))
