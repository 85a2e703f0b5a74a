"""A model as one graph: its own functions inlined."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass


def inline(model: ir.Model) -> None:
    """In place."""
    InlinePass()(model)
    model.functions.clear()
