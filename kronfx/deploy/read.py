"""What an ONNX file holds, without the torch model it came from."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from kronfx.deploy.records.report import RECORD_KEY, ExportedLayer, OnnxSummary, from_record
from kronfx.errors import InspectError


def read(path: str | os.PathLike[str]) -> OnnxSummary:
    """The linear layers of an ONNX file: those in kronfx's record, or, where there is none, every constant
    matrix of a MatMul or Gemm, as a plain dense layer. Raises InspectError where the file is no ONNX file.
    """
    model, size = _load(path)
    record = next((entry.value for entry in model.metadata_props if entry.key == RECORD_KEY), None)
    try:
        recorded = from_record(record) if record is not None else ()
    except ValueError as error:
        found = f"a kronfx record that does not read ({error})"
        needed = "the record that kronfx.export_onnx wrote"
        raise InspectError(os.fspath(path), found, needed, "export anew, or update kronfx") from None
    return OnnxSummary(os.fspath(path), size, model.producer_name, recorded or tuple(_plain_layers(model.graph)))


def _load(path: str | os.PathLike[str]) -> tuple[onnx.ModelProto, int]:
    needed, remedy = "an ONNX file", "give the path of a file that an exporter wrote"
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
    except OSError as error:
        raise InspectError(os.fspath(path), f"cannot be read: {error.strerror}", needed, remedy) from None
    except DecodeError:
        raise InspectError(os.fspath(path), "not in the ONNX format", needed, remedy) from None
    if not model.ir_version or not model.graph.node:  # protobuf reads some files of other kinds as an empty model
        raise InspectError(os.fspath(path), "no ONNX graph in it", needed, remedy)
    return model, Path(path).stat().st_size


def _plain_layers(graph: onnx.GraphProto) -> Iterator[ExportedLayer]:
    matrices = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        for position, name in enumerate(node.input[:2]):
            if name in matrices:
                yield _plain_layer(matrices[name], _is_upright(node, position))


def _is_upright(node: onnx.NodeProto, position: int) -> bool:
    """True where the constant is ``W [m, n]``: on the left of the product, or transposed by it on the right."""
    side = "transA" if position == 0 else "transB"
    transposed = any(attribute.name == side and attribute.i for attribute in node.attribute)
    return (position == 0) != transposed


def _plain_layer(tensor: onnx.TensorProto, upright: bool) -> ExportedLayer:
    m, n = tensor.dims if upright else reversed(tensor.dims)
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    size = math.prod(tensor.dims) * itemsize
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
