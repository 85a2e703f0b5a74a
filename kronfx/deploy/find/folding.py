"""Which constant expressions are folded: those that show a weight, or take no more room than what they are made of."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir

_FEW = 1024  # entries that count for nothing
_PRODUCTS = {"MatMul", "Gemm"}


def is_folded(node: ir.Node) -> bool | None:
    """What kronfx spreads a constant with is folded although it makes it larger, but for rows of zero blocks, and its
    small indices are not made large ones. What others keep small stays so. None: as ever."""
    users = node.outputs[0].uses()
    readers = {use.node.op_type for use in users}
    if node.op_type == "Identity":
        return False  # its readers read what it reads
    if node.op_type == "Expand":
        dims = _integers(node.inputs[1])
        return len(dims) != 3 and (prod(dims) <= _FEW or "Concat" in readers)  # a bucket of blocks has three axes
    if node.op_type == "ConstantOfShape":
        return prod(_integers(node.inputs[0])) <= _FEW or "ScatterND" in readers
    if node.op_type == "Tile" and _size(node.inputs[0]) * prod(_integers(node.inputs[1])) > _FEW:
        return False
    if node.op_type == "Transpose" and readers <= _PRODUCTS and node.inputs[0] is not None:
        return None if len(node.inputs[0].uses()) == 1 else False  # products see through it
    if node.op_type == "Cast" and users and all((use.node.op_type, use.idx) == ("Gather", 1) for use in users):
        return False
    return False if node.op_type == "Cast" and _widens_for_nothing(node) else None


def _widens_for_nothing(node: ir.Node) -> bool:
    """A large constant in a wider type, of which no half is zero: its blocks would not make up for that."""
    tensor = node.inputs[0].const_value if node.inputs[0] is not None else None
    if tensor is None or tensor.size <= _FEW:
        return False
    kind = ir.DataType(node.attributes.get_int("to", tensor.dtype.value))
    return kind.bitwidth > tensor.dtype.bitwidth and bool(2 * np.count_nonzero(tensor.numpy()) > tensor.size)


def _integers(value: ir.Value | None) -> tuple[int, ...]:
    tensor = value.const_value if value is not None else None
    return () if tensor is None else tuple(int(number) for number in tensor.numpy().reshape(-1))


def _size(value: ir.Value | None) -> int:
    return 0 if value is None or value.const_value is None else value.const_value.size
