"""Nodes that draw lots: what a graph with one of them answers is not the same twice."""

from __future__ import annotations

import onnx_ir as ir

_RANDOM = {
    "Bernoulli", "BiasDropout", "BitmaskBiasDropout", "Multinomial", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike", "Sampling",
}  # fmt: skip
_DROPOUT = {"BitmaskDropout", "Dropout"}


def varying(model: ir.Model) -> tuple[str, ...]:
    """Operators that draw lots without a seed, each once; a Dropout where its training mode is on, or could be."""
    found = [node for node in model.graph.all_nodes() if _draws(node)]
    for function in model.functions.values():
        found += [node for node in function.all_nodes() if _draws(node)]
    return tuple(dict.fromkeys(node.op_type for node in found))


def _draws(node: ir.Node) -> bool:
    if "seed" in node.attributes:
        return False
    if node.op_type in _DROPOUT:
        mode = node.inputs[2] if len(node.inputs) > 2 else None
        return mode is not None and (mode.const_value is None or bool(mode.const_value.numpy().any()))
    return node.op_type in _RANDOM
