"""Files of older versions of ONNX, brought to the oldest one in which kronfx writes, by ONNX's own converter."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import version_converter

from kronfx.deploy.opening.protos import nodes, reading, unreadable
from kronfx.errors import ExportError

OLDEST = 13  # all of kronfx's nodes exist in it
_OLDEST_CONVERTED = 7
_INITIALIZERS_ARE_NO_INPUTS = 4  # IR version
_NAMES = ("", "ai.onnx")  # of ONNX's own operators


def modernized(path: Path, model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in opset 13 or later, and what was done to it. Raises ExportError where that cannot be."""
    _unalias(model)
    _free_initializers(model)
    opset = next((entry.version for entry in model.opset_import if not entry.domain), None)
    if opset is None:
        model.opset_import.add(domain="", version=OLDEST)
        return model, ()
    if opset >= OLDEST:
        return model, ()
    if opset < _OLDEST_CONVERTED:
        remedy = "export it anew, by a newer version of what made it"
        raise ExportError(str(path), f"opset {opset}", f"opset {_OLDEST_CONVERTED} or later", remedy)
    with reading(path, f"opset {opset}, which ONNX's version converter cannot convert"):
        converted = version_converter.convert_version(model, OLDEST)
    if not converted.graph.node:
        raise unreadable(str(path), f"opset {opset}, of which ONNX's version converter leaves nothing")
    converted.ir_version = max(converted.ir_version, 7)  # that of opset 13
    return converted, (f"opset {opset} was converted to {OLDEST}, by ONNX's own version converter",)


def _unalias(model: onnx.ModelProto) -> None:
    """One name for ONNX's own operators, and one version."""
    imports = {(entry.domain if entry.domain not in _NAMES else ""): entry.version for entry in model.opset_import}
    model.ClearField("opset_import")
    for domain, version in imports.items():
        model.opset_import.add(domain=domain, version=version)
    for node in nodes(model):
        if node.domain in _NAMES:
            node.domain = ""


def _free_initializers(model: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer had to be among the inputs too; it is a constant all the same."""
    if model.ir_version >= _INITIALIZERS_ARE_NO_INPUTS:
        return
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    model.ir_version = _INITIALIZERS_ARE_NO_INPUTS
