"""Operators on the axes of a value: its sizes, and the swap of the last two."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.lower.layouts import Layouts


def shape(layouts: Layouts, node: ir.Node) -> bool:
    """The sizes of a value, read off its feature-major form: nobody transposes to count."""
    value = node.inputs[0]
    if value is None:
        return False
    feature, build = layouts.make_feature_major(value), layouts.build
    last = feature.rank - 1 if feature.order is None else feature.rank
    sizes = build.op("Gather", build.op("Shape", feature.value), build.integers(*range(feature.rank - 2), last), axis=0)
    dims = build.op("Concat", sizes, build.integers(feature.channels), axis=0)
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", feature.rank)
    if (start, end) != (0, feature.rank):
        dims = build.op("Slice", dims, build.integers(start), build.integers(end), build.integers(0))
    layouts.replace(node.outputs[0], dims)
    return True


def swap(layouts: Layouts, node: ir.Node) -> bool:
    """A transpose of the last two axes is what feature-major means."""
    value, perm = node.inputs[0], permutation(node)
    if value is None or perm != (*range(len(perm) - 2), len(perm) - 1, len(perm) - 2):
        return False
    layouts.replace(node.outputs[0], layouts.make_ordered(layouts.make_feature_major(value)).value)
    return True


def permutation(node: ir.Node) -> tuple[int, ...]:
    """That of a Transpose; empty where it says none."""
    return tuple(node.attributes.get_ints("perm", ()))
