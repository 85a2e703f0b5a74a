"""What attention does to its features: cut into q, k and v, into heads, and keys transposed."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.lower.operators.axes import permutation
from kronfx.deploy.nodes.values import only_user


def split(layouts: Layouts, node: ir.Node) -> bool:
    """Features cut into parts, as a packed projection's q, k and v."""
    value = node.inputs[0]
    if value is None or value.shape is None or node.attributes.get_int("axis", 0) not in (-1, len(value.shape) - 1):
        return False
    widths = [None if output.shape is None else output.shape[-1] for output in node.outputs]
    if not all(isinstance(width, int) for width in widths):
        return False
    whole = layouts.make_ordered(layouts.make_feature_major(value)).value
    others = [attribute for name, attribute in node.attributes.items() if name != "axis"]
    axis = ir.AttrInt64("axis", len(value.shape) - 2)
    inputs = [whole, *node.inputs[1:]]
    copy = layouts.build.node(ir.Node("", "Split", inputs, [axis, *others], num_outputs=len(widths)))
    for output, made, width in zip(node.outputs, copy.outputs, widths, strict=True):
        layouts.define(output, Feature(made, len(value.shape), int(width)))  # type: ignore[arg-type]
    return True


def heads(layouts: Layouts, node: ir.Node) -> bool:
    """``[B, S, H D]`` cut into heads ``[B, S, H, D]``, then ``[B, H, S, D]``: feature-major, that is a view."""
    value, cut = node.inputs[0], node.outputs[0]
    turns = list(cut.consumers())
    if value is None or value.shape is None or cut.shape is None or len(value.shape) != 3 or len(cut.shape) != 4:
        return False
    batch, length, count, width = cut.shape
    if not isinstance(count, int) or not isinstance(width, int) or not turns or cut.is_graph_output():
        return False
    if value.shape != (batch, length, count * width):
        return False
    if any(turn.op_type != "Transpose" or permutation(turn) not in ((0, 2, 1, 3), (0, 2, 3, 1)) for turn in turns):
        return False
    whole = layouts.make_ordered(layouts.make_feature_major(value)).value
    view = layouts.build.op("Reshape", whole, layouts.build.integers(0, count, width, -1))
    for turn in turns:
        if permutation(turn) == (0, 2, 1, 3):
            layouts.define(turn.outputs[0], Feature(view, 4, width))
        else:
            layouts.replace(turn.outputs[0], view)
    layouts.skip(*turns)
    return True


def keys(layouts: Layouts, node: ir.Node) -> bool:
    """``[B, H, S, D] -> [B H, S, D] -> [B H, D, S] -> [B, H, D, S]``, as exporters turn the keys of attention."""
    value = node.inputs[0]
    turn = only_user(node.outputs[0], "Transpose")
    back = only_user(turn.outputs[0], "Reshape") if turn is not None and permutation(turn) == (0, 2, 1) else None
    if turn is None or back is None or value is None or value.shape is None or len(value.shape) != 4:
        return False
    batch, count, length, width = value.shape
    flat, transposed = node.outputs[0].shape, back.outputs[0].shape
    if flat is None or transposed != (batch, count, width, length) or tuple(flat[1:]) != (length, width):
        return False
    layouts.replace(back.outputs[0], layouts.make_ordered(layouts.make_feature_major(value)).value)
    layouts.skip(turn, back)
    return True


def reshape(layouts: Layouts, node: ir.Node) -> bool:
    """What attention does to its heads; any other Reshape mixes the axes."""
    return heads(layouts, node) or keys(layouts, node)
