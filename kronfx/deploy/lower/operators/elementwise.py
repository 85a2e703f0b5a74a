"""Operators that work element by element: the layout does not matter to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.nodes.values import is_constant, tensor_of

UNARY = "Abs Cast Celu Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Not Reciprocal Relu Selu"
UNARY += " Sigmoid Softplus Softsign Sqrt Swish Tanh ThresholdedRelu"
SEVERAL = "Add Sub Mul Div Pow Min Max Clip"
_NORMALIZATIONS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}


def elementwise(layouts: Layouts, node: ir.Node) -> bool:
    """Element by element: the layout does not matter, as long as all operands have the same one.

    A sum with a row-major value stays feature-major if a normalization reads it, as residual streams do: onnxruntime
    would fuse the two into something slower (``kronfx/decisions/feature_major.md``).
    """
    base = next(value for value in node.inputs if value is not None and layouts.is_lazy(value))
    kinds = [_kind(layouts, node, base, value) for value in node.inputs]
    if None in kinds:
        return False
    pairs = list(zip(node.inputs, kinds, strict=True))
    whole = [layouts.make_feature_major(v) for v, kind in pairs if kind == "whole" and v is not None]
    vectors = "vector" in kinds
    if len({feature.order for feature in whole}) > 1 or not (whole[0].complete or kinds == ["whole"]):
        whole = [layouts.make_ordered(feature) for feature in whole]
    if vectors and whole[0].order is not None and not _constant_vectors(node.inputs, kinds):
        whole = [layouts.make_ordered(feature) for feature in whole]
    like, remaining = whole[0], iter(whole)
    operands: list[ir.Value | None] = []
    for value, kind in pairs:
        if kind == "whole":
            operands.append(next(remaining).value)
        elif kind == "vector" and value is not None:
            operands.append(column(layouts, layouts.make_row_major(value), like))
        else:
            operands.append(value and layouts.make_row_major(value))
    copy = layouts.build.node(ir.Node(node.domain, node.op_type, operands, node.attributes.values()))
    copy_types(copy, node)
    layouts.define(node.outputs[0], replace(like, value=copy.outputs[0]))
    return True


def copy_types(copy: ir.Node, node: ir.Node) -> None:
    """The outputs of a copy are of the types of the node's."""
    for made, output in zip(copy.outputs, node.outputs, strict=True):
        made.type = output.type


def _kind(layouts: Layouts, node: ir.Node, base: ir.Value, value: ir.Value | None) -> str | None:
    """How an operand meets ``base``: whole (same shape), as a vector along the features, or as a scalar."""
    if value is None:
        return "scalar"
    if value is base:
        return "whole"
    shape, like = value.shape, base.shape
    if is_constant(value):
        shape = ir.Shape(tensor_of(value).shape.numpy())
    if shape is None or like is None:
        return None
    same = shape == like and all(isinstance(dim, int) or dim.value is not None for dim in like)
    if same and (layouts.has_feature(value) or _is_normalized(node)):
        return "whole"
    if all(dim == 1 for dim in shape) and len(shape) <= len(like):
        return "scalar"
    if len(shape) <= len(like) and shape[-1] == like[-1] and all(dim == 1 for dim in shape[:-1]):
        return "vector"
    return None


def _is_normalized(node: ir.Node) -> bool:
    return node.op_type == "Add" and any(user.op_type in _NORMALIZATIONS for user in node.outputs[0].consumers())


def _constant_vectors(values: Sequence[ir.Value | None], kinds: Sequence[str | None]) -> bool:
    return all(v is not None and is_constant(v) for v, kind in zip(values, kinds, strict=True) if kind == "vector")


def column(layouts: Layouts, value: ir.Value, like: Feature) -> ir.Value:
    """A vector ``[C]`` as ``[C, 1]``, or ``[m1, m2, 1]`` in the order of ``like``."""
    if not is_constant(value):
        return layouts.build.op("Reshape", value, layouts.build.integers(like.channels, 1))
    vector = tensor_of(value).numpy().reshape(-1)
    if like.order is None:
        return layouts.build.constant(f"{value.name}/column", vector[:, None])
    rows = vector.reshape(-1, like.height, 1)[list(like.order)]
    return layouts.build.constant(f"{value.name}/column/{abs(hash(like.order)):x}", rows)
