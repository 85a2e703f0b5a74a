"""A model as one graph: its own functions inlined, its constants no inputs where no caller could replace them."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

_OPTIONAL_INPUTS = 4  # the IR version from which on constants need not be inputs, and those that are have a purpose


def make_plain(model: ir.Model) -> None:
    """In place."""
    if model.functions:
        InlinePass()(model)
        model.functions.clear()
    if model.ir_version < _OPTIONAL_INPUTS:
        for value in [value for value in model.graph.inputs if value.const_value is not None]:
            model.graph.inputs.remove(value)
        model.ir_version = _OPTIONAL_INPUTS
