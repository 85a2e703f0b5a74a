"""The product of two operands, one of them a constant matrix, which all spellings but convolutions come down to."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.operand import no_matrix
from kronfx.deploy.find.spellings.static import static
from kronfx.deploy.nodes.values import is_constant


def product(node: ir.Node, turned: tuple[bool, bool] = (False, False)) -> Linear | str | None:
    """``A B`` of a node's first two inputs, whose last two axes are swapped before where ``turned``.

    ``x W^T`` with ``W^T [n, m]`` on the right, ``W x`` with ``W [m, n]`` on the left, or what was quantized.
    """
    left, right = node.inputs[:2]
    if left is None or right is None:
        return None
    if is_constant(left) and is_constant(right):
        return "multiplies two constants"
    y = node.outputs[0]
    if is_constant(right):
        linear = Linear(node=node, x=left, y=y, weight=right, transposed=not turned[1], turned=turned[0])
        return no_matrix(right, left) or linear
    if is_constant(left):
        linear = Linear(
            node=node, x=right, y=y, weight=left, transposed=turned[0], turned=turned[1], channels_first=True
        )
        return no_matrix(left, right) or linear
    return static(node, left, right, transposed=not turned[1])
