"""The way from a torch model to a file."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from kronfx.deploy.inputs import inputs_of
from kronfx.deploy.lowerings import lower
from kronfx.deploy.quiet import progress
from kronfx.deploy.records import RECORD_KEY, ExportedLayer, ExportReport, to_record
from kronfx.deploy.trace import reason, trace
from kronfx.deploy.verify import verify as verify_file
from kronfx.errors import ExportError
from kronfx.files import destination, replacing
from kronfx.layers import folded_layers, kronecker_layers, require_module
from kronfx.records import Site

_PROTOBUF_LIMIT = 2**31 - 1  # bytes: one protobuf message, which an ONNX file is, cannot be larger


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    *,
    reference: nn.Module | None = None,
    dynamic_shapes: Any = None,
    batch_sizes: Sequence[int] = (1, 7, 32),
    verify: bool = True,
) -> ExportReport:
    """Write a rewritten model as one ONNX file of standard operators that computes what the model computes.

    - ``example_inputs``: a tensor, a tuple or list of tensors, or a dict of keyword tensors. Dim 0 of every
      tensor whose dim 0 equals that of the first is the batch, dynamic in the file.
    - ``dynamic_shapes``: as ``torch.export`` understands it, handed through as it is; ``{}`` fixes every
      size.
    - ``reference``: the model to verify against, by default ``model`` itself, in eval mode.
    - ``batch_sizes``: where to verify, with inputs made from the example's rows; the tolerance, relative to
      ``max(1, max|y|)``, is 1e-9 for float64, 1e-4 for float32, 2e-2 for float16, 1e-1 for bfloat16.

    A folded layer (``BlockSparseLinear``) is stored as its surviving blocks, wherever that is smaller, and
    runs dense; a factored one (``KroneckerLinear``) runs its evaluation on stored operands. The model is left
    untouched, its training flags too; the file appears under its name once it is whole and verified, or not
    at all.

    Raises ExportError, and VerificationError where the file would not compute what the reference computes.
    """
    _require_values(model)
    target = destination(path, ExportError)
    inputs = inputs_of(example_inputs, model)
    sizes = _batch_sizes(batch_sizes)
    with progress() as step:
        step("capturing the graph")
        lowered = lower(_eval_copy(model))
        onnx_model = trace(lowered.model, inputs, dynamic_shapes)
        step("storing the weights")
        layers = lowered.settle(onnx_model.graph)
        content = _serialized(_signed(_stripped(onnx_model), layers))
        step("writing")
        with replacing(target, content, ExportError) as temporary:
            if not verify:
                return ExportReport(str(path), len(content), layers)
            step("verifying in onnxruntime")
            found = verify_file(temporary, _eval_copy(reference or model), inputs, sizes)
    return ExportReport(
        str(path),
        len(content),
        layers,
        found.batch_sizes,
        found.max_error,
        found.tolerance,
        found.load_seconds,
    )


def _require_values(model: nn.Module) -> None:
    require_module(model, ExportError)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            remedy = "load the weights before exporting"
            raise ExportError(name, "a tensor on the meta device, which holds no values", "real values", remedy)
    parts = [
        *(
            (name, layer.shape, part)
            for name, layer in kronecker_layers(model).items()
            for part in layer.named_parameters()
        ),
        *((name, layer.shape, ("weight", layer.weight)) for name, layer in folded_layers(model).items()),
    ]
    for name, shape, (part, value) in parts:
        if not torch.isfinite(value).all():
            label = Site(name, "", shape.m, shape.n).label
            remedy = "export a checkpoint from before the training diverged"
            raise ExportError(label, f"NaN or infinite entries in {part}", "finite weights", remedy)


def _batch_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ExportError("", f"batch_sizes={sizes!r}", "one or more positive integers", "try (1, 7, 32)")
    return tuple(dict.fromkeys(sizes))


def _eval_copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:  # a model may hold anything
        found = f"the model cannot be copied ({reason(error)})"
        remedy = "drop what its modules hold besides parameters, buffers and plain values"
        raise ExportError("", found, "a model that copy.deepcopy can copy", remedy) from error


def _stripped(model: ir.Model) -> ir.Model:
    """The model without stack traces and other leftovers of the export: they are large and name this
    machine's files."""
    model.metadata_props.clear()
    model.doc_string = None
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            _strip_value(value)
    for graph in (model.graph, *model.graph.subgraphs()):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            _strip_value(value)
        for value in set(graph.initializers.values()) - set(graph.outputs):
            value.type = value.shape = None  # the tensor says both already
    return model


def _strip_value(value: ir.Value) -> None:
    value.metadata_props.clear()
    value.doc_string = None


def _signed(model: ir.Model, layers: tuple[ExportedLayer, ...]) -> ir.Model:
    """The model with kronfx's own record in its metadata."""
    model.producer_name, model.producer_version = "kronfx", None
    model.metadata_props[RECORD_KEY] = to_record(layers)
    return model


def _serialized(model: ir.Model) -> bytes:
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > _PROTOBUF_LIMIT:
        found = f"{size:,} bytes of weights"
        remedy = "factorize or fold more of the model, or export it in parts"
        raise ExportError("", found, f"at most {_PROTOBUF_LIMIT:,}, the most one ONNX file can hold", remedy)
    content: bytes = ir.to_proto(model).SerializeToString()
    return content
