"""From a torch model to an ONNX graph, by torch's own exporter."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import is_constant, tensor_of
from kronfx.deploy.prove.inputs import Inputs
from kronfx.deploy.quiet import silence
from kronfx.deploy.speakable import speakable
from kronfx.errors import ExportError, reason


def trace(model: nn.Module, inputs: Inputs, dynamic_shapes: Any) -> ir.Model:
    """The model's graph with a dynamic batch, or with the user's ``dynamic_shapes``. Raises ExportError."""
    if dynamic_shapes is not None:
        return _exported(model, inputs, dynamic_shapes)
    # torch takes an axis of length 1 for a constant, so an example of one row is shown as two.
    shown = inputs.at_batch(2) if inputs.batch == 1 else inputs
    try:
        graph = _exported(model, shown, shown.dynamic_batch(model))
    except ExportError as error:
        if _exports_with_fixed_batch(model, shown):
            raise _fixed_batch(error.found) from error
        raise
    for value, tensor in zip(graph.graph.inputs, shown.tensors, strict=False):
        if shown.is_batched(tensor) and value.shape is not None and isinstance(value.shape[0], int):
            raise _fixed_batch(f"torch.export fixed the batch of {value.name} at {value.shape[0]}")
    return graph


def _exported(model: nn.Module, inputs: Inputs, dynamic_shapes: Any) -> ir.Model:
    try:
        with silence(), speakable(model):
            program = torch.onnx.export(
                model,
                inputs.args,
                kwargs=inputs.kwargs,
                dynamic_shapes=dynamic_shapes,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # torch documents no common class for what a model can do wrong here
        found = f"torch.onnx.export failed: {reason(error)}"
        remedy = "make torch.export.export(model.eval(), ...) pass first"
        raise ExportError("", found, "a model that torch.export can capture", remedy) from error
    if program is None:
        raise ExportError("", "torch.onnx.export gave no program", "its result", "update torch")
    _multiply_out(program.model.graph)
    return program.model


def _multiply_out(graph: ir.Graph) -> None:
    """``S * A`` is one constant: the exporter leaves both in the file where they have over 8,192 entries."""
    build = Builder(graph)
    for node in [node for node in graph if node.op_type == "Mul" and node.domain == ""]:
        first, second = node.inputs
        if first is None or second is None or not (is_constant(first) and is_constant(second)):
            continue
        arrays = tensor_of(first).numpy(), tensor_of(second).numpy()
        product = arrays[0] * arrays[1]
        if product.size <= max(array.size for array in arrays):
            made = build.constant(f"{first.name}*{second.name}", product)
            ir.convenience.replace_all_uses_with(node.outputs[0], made, replace_graph_outputs=True)
            graph.remove(node, safe=True)


def _exports_with_fixed_batch(model: nn.Module, inputs: Inputs) -> bool:
    try:
        _exported(model, inputs, {})
    except ExportError:  # whatever it is, the batch is not to blame
        return False
    return True


def _fixed_batch(found: str) -> ExportError:
    return ExportError(
        "",
        f"the model cannot take every batch size ({found})",
        "a model whose computation does not depend on the number of rows",
        "pass dynamic_shapes={} to fix all sizes at the example's, or name the axes that can vary, as in "
        "dynamic_shapes={'x': {0: 'batch'}} for a forward(self, x)",
    )
