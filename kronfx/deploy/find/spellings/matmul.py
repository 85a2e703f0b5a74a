"""``MatMul``: a product with a constant matrix on either side."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.flattened import unflattened
from kronfx.deploy.find.spellings.operand import no_matrix
from kronfx.deploy.find.spellings.static import static
from kronfx.deploy.nodes.values import is_constant


def matmul(node: ir.Node) -> Linear | str | None:
    """``x W^T`` with ``W^T [n, m]`` on the right, ``W x`` with ``W [m, n]`` on the left, or what was quantized."""
    left, right = node.inputs
    if left is None or right is None:
        return None
    if not is_constant(left) and not is_constant(right):
        return static(node, left, right, transposed=True)
    if is_constant(left) and is_constant(right):
        return "multiplies two constants"
    y = node.outputs[0]
    if is_constant(right):
        return no_matrix(right) or unflattened(Linear(node=node, x=left, y=y, weight=right, transposed=True))
    return no_matrix(left) or Linear(node=node, x=right, y=y, weight=left, transposed=False, channels_first=True)
