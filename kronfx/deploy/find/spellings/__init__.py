"""Spellings: the operators that multiply by a constant matrix. One file a family, one row an operator.

A spelling looks at a node of its operator and answers the ``Linear`` map that it is, or, in half a sentence about the
node ("pads its input"), why a product with a constant is none that kronfx takes, or None where it has no constant to
multiply by.

To add a spelling: a file with a function from a node to one of these three, a row here. Operators that are not ONNX's
own have their domain in front. Whatever comes down to ``A B`` with a constant matrix for either, transposed or not,
asks ``product`` in ``product.py``; the fields of ``Linear`` are in ``kronfx/deploy/find/linear.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from kronfx.deploy.find.forms import FORMS
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.spellings.conv import convolution
from kronfx.deploy.find.spellings.form import kept
from kronfx.deploy.find.spellings.fused import fused_gemm, fused_matmul
from kronfx.deploy.find.spellings.gemm import gemm
from kronfx.deploy.find.spellings.integer import integer
from kronfx.deploy.find.spellings.matmul import matmul
from kronfx.deploy.find.spellings.qlinear import qlinear

Spelling = Callable[[ir.Node], Linear | str | None]

SPELLINGS: dict[str, Spelling] = {
    "MatMul": matmul,
    "MatMulInteger": integer,
    "QLinearMatMul": qlinear,
    "Gemm": gemm,
    "Conv": convolution,
    "com.microsoft.FusedMatMul": fused_matmul,
    "com.microsoft.FusedGemm": fused_gemm,
    **dict.fromkeys(FORMS, kept),
}


def find(graph: ir.Graph) -> list[Linear]:
    """Every linear map of a graph, in its order; bodies of ``If`` and ``Loop`` are left alone."""
    return [linear for node in graph if isinstance(linear := spelled(node), Linear)]


def spelled(node: ir.Node) -> Linear | str | None:
    """What its spelling answers; None where there is none for this operator."""
    spelling = SPELLINGS.get(f"{node.domain}.{node.op_type}".lstrip("."))
    return spelling(node) if spelling is not None else None
