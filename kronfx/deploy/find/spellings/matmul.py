"""``MatMul``: a product with a constant matrix on either side."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.flattened import unflattened
from kronfx.deploy.find.spellings.product import product


def matmul(node: ir.Node) -> Linear | str | None:
    """``x W^T`` with ``W^T [n, m]`` on the right, ``W x`` with ``W [m, n]`` on the left, or what was quantized."""
    answer = product(node)
    return unflattened(answer) if isinstance(answer, Linear) else answer
