"""Operators that work feature-major as well as row-major: a rule each, in one table.

A rule looks at a node whose inputs are feature-major and either computes its outputs feature-major (True), or leaves
everything as it was (False): then whatever it reads becomes row-major.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.nodes.values import is_constant, only_user, tensor_of

Rule = Callable[[Layouts, ir.Node], bool]

_UNARY = "Abs Cast Celu Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Not Reciprocal Relu Selu"
_UNARY += " Sigmoid Softplus Softsign Sqrt Swish Tanh ThresholdedRelu"
_SEVERAL = "Add Sub Mul Div Pow Min Max Clip"
_NORMALIZATIONS = {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}


def elementwise(layouts: Layouts, node: ir.Node) -> bool:
    """Element by element: the layout does not matter, as long as all operands have the same one.

    A sum with a row-major value stays feature-major if a normalization reads it, as residual streams do: onnxruntime
    would fuse the two into something slower (``kronfx/decisions/feature_major.md``).
    """
    base = next(value for value in node.inputs if layouts.is_lazy(value))
    assert base is not None
    kinds = [_kind(layouts, node, base, value) for value in node.inputs]
    if None in kinds:
        return False
    whole = [
        layouts.feature(v) for v, kind in zip(node.inputs, kinds, strict=True) if kind == "whole" and v is not None
    ]
    vectors = "vector" in kinds
    if len({feature.order for feature in whole}) > 1 or not (whole[0].complete or kinds == ["whole"]):
        whole = [layouts.in_order(feature) for feature in whole]
    if vectors and whole[0].order is not None and not _constant_vectors(node.inputs, kinds):
        whole = [layouts.in_order(feature) for feature in whole]
    like, remaining = whole[0], iter(whole)
    operands: list[ir.Value | None] = []
    for value, kind in zip(node.inputs, kinds, strict=True):
        if kind == "whole":
            operands.append(next(remaining).value)
        elif kind == "vector" and value is not None:
            operands.append(column(layouts, layouts.row_major(value), like))
        else:
            operands.append(value and layouts.row_major(value))
    copy = layouts.build.node(ir.Node(node.domain, node.op_type, operands, node.attributes.values()))
    _type(copy, node)
    layouts.define(node.outputs[0], Feature(copy.outputs[0], like.rank, like.channels, like.order, like.height))
    return True


def _type(copy: ir.Node, node: ir.Node) -> None:
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


def dequantize(layouts: Layouts, node: ir.Node) -> bool:
    """Sums of 8-bit products become floating numbers: Cast and Mul by a scalar are one DequantizeLinear.

    In onnxruntime that takes a sixth of the time of the two (8 x 3072 x 128 sums, 2 threads: 0.5 against 3.2 ms).
    """
    value, scaled = node.inputs[0], only_user(node.outputs[0], "Mul")
    if value is None or scaled is None or value.dtype != ir.DataType.INT32:
        return elementwise(layouts, node)
    scale = next((v for v in scaled.inputs if v is not None and v is not node.outputs[0]), None)
    if scale is None or scale.shape is None or len(scale.shape) or node.attributes.get_int("to", 0) != scale.dtype:
        return elementwise(layouts, node)
    feature = layouts.feature(value)
    floats = layouts.build.op("DequantizeLinear", feature.value, scale)
    layouts.define(scaled.outputs[0], replace(feature, value=floats))
    layouts.skip(scaled)
    return True


def quantize(layouts: Layouts, node: ir.Node) -> bool:
    """The range of a tensor does not depend on its layout."""
    value = node.inputs[0]
    assert value is not None
    feature = layouts.feature(value)
    copy = layouts.build.node(ir.Node(node.domain, node.op_type, [feature.value], num_outputs=len(node.outputs)))
    _type(copy, node)
    for made, output in zip(copy.outputs[1:], node.outputs[1:], strict=True):
        made.shape = output.shape
        layouts.alias(output, made)
    layouts.define(
        node.outputs[0], Feature(copy.outputs[0], feature.rank, feature.channels, feature.order, feature.height)
    )
    return True


def split(layouts: Layouts, node: ir.Node) -> bool:
    """Features cut into parts, as a packed projection's q, k and v."""
    value = node.inputs[0]
    if value is None or value.shape is None or node.attributes.get_int("axis", 0) not in (-1, len(value.shape) - 1):
        return False
    widths = [None if output.shape is None else output.shape[-1] for output in node.outputs]
    if not all(isinstance(width, int) for width in widths):
        return False
    whole = layouts.natural(layouts.feature(value))
    kept = [attribute for name, attribute in node.attributes.items() if name != "axis"]
    axis = ir.AttrInt64("axis", len(value.shape) - 2)
    inputs = [whole, *node.inputs[1:]]
    copy = layouts.build.node(ir.Node("", "Split", inputs, [axis, *kept], num_outputs=len(widths)))
    for output, made, width in zip(node.outputs, copy.outputs, widths, strict=True):
        layouts.define(output, Feature(made, len(value.shape), int(width)))  # type: ignore[arg-type]
    return True


def heads(layouts: Layouts, node: ir.Node) -> bool:
    """``[B, S, H D]`` cut into heads ``[B, S, H, D]`` and turned to ``[B, H, S, D]``: feature-major, that is a view."""
    value, cut = node.inputs[0], node.outputs[0]
    turns = list(cut.consumers())
    if value is None or value.shape is None or cut.shape is None or len(value.shape) != 3 or len(cut.shape) != 4:
        return False
    batch, length, count, width = cut.shape
    if not isinstance(count, int) or not isinstance(width, int) or not turns or cut.is_graph_output():
        return False
    if value.shape != (batch, length, count * width):
        return False
    if any(turn.op_type != "Transpose" or _perm(turn) not in ((0, 2, 1, 3), (0, 2, 3, 1)) for turn in turns):
        return False
    view = layouts.build.op(
        "Reshape", layouts.natural(layouts.feature(value)), layouts.build.integers(0, count, width, -1)
    )
    for turn in turns:
        if _perm(turn) == (0, 2, 1, 3):
            layouts.define(turn.outputs[0], Feature(view, 4, width))
        else:
            layouts.alias(turn.outputs[0], view)
    layouts.skip(*turns)
    return True


def keys(layouts: Layouts, node: ir.Node) -> bool:
    """``[B, H, S, D] -> [B H, S, D] -> [B H, D, S] -> [B, H, D, S]``, as exporters turn the keys of attention."""
    value = node.inputs[0]
    turn = only_user(node.outputs[0], "Transpose")
    back = only_user(turn.outputs[0], "Reshape") if turn is not None and _perm(turn) == (0, 2, 1) else None
    if turn is None or back is None or value is None or value.shape is None or len(value.shape) != 4:
        return False
    batch, count, length, width = value.shape
    flat, turned = node.outputs[0].shape, back.outputs[0].shape
    if flat is None or turned != (batch, count, width, length) or tuple(flat[1:]) != (length, width):
        return False
    layouts.alias(back.outputs[0], layouts.natural(layouts.feature(value)))
    layouts.skip(turn, back)
    return True


def reshape(layouts: Layouts, node: ir.Node) -> bool:
    """What attention does to its heads; any other Reshape mixes the axes."""
    return heads(layouts, node) or keys(layouts, node)


def shape(layouts: Layouts, node: ir.Node) -> bool:
    """The sizes of a value, read off its feature-major form: nobody transposes to count."""
    value = node.inputs[0]
    if value is None:
        return False
    feature, build = layouts.feature(value), layouts.build
    last = feature.rank - 1 if feature.order is None else feature.rank
    sizes = build.op("Gather", build.op("Shape", feature.value), build.integers(*range(feature.rank - 2), last), axis=0)
    dims = build.op("Concat", sizes, build.integers(feature.channels), axis=0)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", feature.rank)
    if (start, end) != (0, feature.rank):
        dims = build.op("Slice", dims, build.integers(start), build.integers(end), build.integers(0))
    layouts.alias(node.outputs[0], dims)
    return True


def swap(layouts: Layouts, node: ir.Node) -> bool:
    """A transpose of the last two axes is what feature-major means."""
    value, perm = node.inputs[0], _perm(node)
    if value is None or perm != (*range(len(perm) - 2), len(perm) - 1, len(perm) - 2):
        return False
    layouts.alias(node.outputs[0], layouts.natural(layouts.feature(value)))
    return True


def _perm(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm", ()))


RULES: dict[str, Rule] = {
    **dict.fromkeys((*_UNARY.split(), *_SEVERAL.split()), elementwise),
    "Cast": dequantize,
    "DynamicQuantizeLinear": quantize,
    "Split": split,
    "Reshape": reshape,
    "Shape": shape,
    "Transpose": swap,
}
