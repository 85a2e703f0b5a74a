"""What spellings ask of the constant that they multiply by."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.nodes.values import tensor_of


def no_matrix(weight: ir.Value, x: ir.Value) -> str | None:
    """Why a constant that ``x`` is multiplied by is no matrix of floating numbers, None where it is one: axes of length
    1 in front of it change nothing where ``x`` has as many."""
    tensor = tensor_of(weight)
    dims = tuple(tensor.shape.numpy())
    if len(dims) < 2 or any(dim != 1 for dim in dims[:-2]):
        return f"multiplies by a constant of {len(dims)} axes, which is no matrix"
    if len(dims) > 2 and (x.shape is None or len(x.shape) < len(dims)):
        return f"multiplies what may have fewer axes by a constant of {len(dims)} axes"
    if not tensor.dtype.is_floating_point():
        return f"multiplies by a matrix of type {tensor.dtype.name}, which is not floating"
    return None


def number(node: ir.Node, name: str, default: float) -> float:
    """An attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
