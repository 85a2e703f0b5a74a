"""What spellings ask of the constant that they multiply by."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.nodes.values import is_matrix, tensor_of


def no_matrix(weight: ir.Value) -> str | None:
    """Why a constant is no matrix of floating numbers, None where it is one."""
    if is_matrix(weight):
        return None
    if (axes := len(tensor_of(weight).shape)) != 2:
        return f"multiplies by a constant of {axes} axes, which is no matrix"
    return f"multiplies by a matrix of type {tensor_of(weight).dtype.name}, which is not floating"


def number(node: ir.Node, name: str, default: float) -> float:
    """An attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
