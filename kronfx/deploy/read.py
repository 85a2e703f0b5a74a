"""What an ONNX file holds, without the torch model it came from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import onnx

from kronfx.deploy.opening.protos import parsed, tensors
from kronfx.deploy.opening.structure import require_text
from kronfx.deploy.opening.values import is_external, nbytes, require_kind
from kronfx.deploy.records.report import RECORD_KEY, ExportedLayer, OnnxSummary, from_record
from kronfx.errors import InspectError


def read(path: str | os.PathLike[str]) -> OnnxSummary:
    """The linear layers of an ONNX file: those in kronfx's record, or, where there is none, every constant
    matrix of a MatMul or Gemm, as a plain dense layer. Raises InspectError where the file is no ONNX file.
    """
    file, model = parsed(path, InspectError)
    require_text(file, model, InspectError)
    for tensor in tensors(model):
        require_kind(file, tensor, InspectError)
    size = file.stat().st_size + sum(nbytes(tensor) for tensor in tensors(model) if is_external(tensor))
    record = next((entry.value for entry in model.metadata_props if entry.key == RECORD_KEY), None)
    try:
        recorded = from_record(record) if record is not None else ()
    except ValueError as error:
        found = f"a kronfx record that does not read ({error})"
        needed = "the record that kronfx.export_onnx wrote"
        raise InspectError(os.fspath(path), found, needed, "export anew, or update kronfx") from None
    return OnnxSummary(os.fspath(path), size, model.producer_name, recorded or tuple(_plain_layers(model.graph)))


def _plain_layers(graph: onnx.GraphProto) -> Iterator[ExportedLayer]:
    numbers = [tensor for tensor in graph.initializer if tensor.data_type != onnx.TensorProto.STRING]
    matrices = {tensor.name: tensor for tensor in numbers if len(tensor.dims) == 2 and min(tensor.dims) > 0}
    counted: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        for position, name in enumerate(node.input[:2]):
            if name in matrices:
                row = _plain_layer(matrices[name], _is_upright(node, position))
                yield replace(row, bytes=0) if name in counted else row
                counted.add(name)


def _is_upright(node: onnx.NodeProto, position: int) -> bool:
    """True where the constant is ``W [m, n]``: on the left of the product, or transposed by it on the right."""
    side = "transA" if position == 0 else "transB"
    transposed = any(attribute.name == side and attribute.i for attribute in node.attribute)
    return (position == 0) != transposed


def _plain_layer(tensor: onnx.TensorProto, upright: bool) -> ExportedLayer:
    m, n = tensor.dims if upright else reversed(tensor.dims)
    size = nbytes(tensor)
    return ExportedLayer(
        site=tensor.name,
        m=m,
        n=n,
        block=None,
        lowering="dense",
        zero_blocks=0,
        blocks=0,
        dense_bytes=size,
        bytes=size,
    )
