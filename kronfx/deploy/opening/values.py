"""The values of a file apart from its graph: taken out of the message and put into the graph that is made of it.

What is left of the message is small, whatever the model's size, so that libraries that copy it can be asked about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array
from kronfx.deploy.opening.protos import reading, tensors, unreadable
from kronfx.errors import ExportError, KronfxError

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
DataOf = Callable[[onnx.TensorProto], Bytes]
_KINDS = {kind.value for kind in ir.DataType if kind != ir.DataType.UNDEFINED}
INFERRED = "kronfx: inferred"  # marks values whose type the source did not tell
KIND = "kronfx: kind"  # of values of a type that onnx_ir does not know
SMALL = 1000  # bytes: what stays in the message, for shapes are inferred from it
# The location of what was taken out, an absolute path, which no file may say; the offset is its number in the list.
_PLACE = "/kronfx: values"


def take_out(path: Path, model: onnx.ModelProto, taken: list[Array], data_of: DataOf) -> None:
    """Every tensor's values but for small ones; ``data_of`` reads external data. Raises ExportError."""
    for tensor in tensors(model):
        if _is_taken(tensor):
            continue
        array = values_of(path, tensor, data_of)
        if array is None:
            continue
        if array.nbytes > SMALL:
            put_aside(tensor, taken, array)
        elif is_external(tensor):
            embed(tensor, data_of(tensor))


def put_aside(tensor: onnx.TensorProto, taken: list[Array], array: Array) -> None:
    """Leave of a tensor what its values are, and where in ``taken`` they are."""
    kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=array.shape)
    tensor.CopyFrom(kept)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=_PLACE)
    tensor.external_data.add(key="offset", value=str(len(taken)))
    taken.append(array)


def put_back(model: ir.Model, taken: list[Array]) -> None:
    """The values into the graph that was made of the message: arrays as they are, mapped ones mapped."""

    def whole(tensor: Any) -> Any:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        return ir.Tensor(taken[tensor.offset or 0], tensor.dtype, name=tensor.name)

    functions = model.functions.values()
    for graph in (*model.graphs(), *(body for function in functions for body in function.subgraphs())):
        for value in graph.initializers.values():
            value.const_value = whole(value.const_value)
    for node in (*model.graph.all_nodes(), *(node for function in functions for node in function.all_nodes())):
        for name, attribute in node.attributes.items():
            if attribute.is_ref():
                continue
            if isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, whole(attribute.value))
            elif attribute.type == ir.AttributeType.TENSORS:
                node.attributes[name] = ir.AttrTensors(name, [whole(tensor) for tensor in attribute.as_tensors()])


def values_of(path: Path, tensor: onnx.TensorProto, data_of: DataOf) -> Array | None:
    """What a tensor holds; None for strings. Raises ExportError where that is not what its type and dims say.

    Nothing is made that is larger than what is there: dims are but numbers, and may be any.
    """
    require_kind(path, tensor)
    count = math.prod(tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        _require(path, tensor, len(tensor.string_data) == count)
        return None
    if is_external(tensor):
        return array_of(tensor, data_of(tensor))
    if tensor.HasField("raw_data"):
        data = np.frombuffer(tensor.raw_data, np.uint8)
        _require(path, tensor, len(data) == nbytes(tensor))
        return array_of(tensor, data)
    _require(path, tensor, count <= 8 * _entries(tensor))  # 1-bit types are the smallest there could be
    with reading(path, f"in it is a tensor {tensor.name!r} whose values are not what it says they are"):
        return np.asarray(ir.serde.deserialize_tensor(tensor).numpy())


def require_kind(path: Path, tensor: onnx.TensorProto, error: type[KronfxError] = ExportError) -> None:
    """Raise ``error`` where a tensor is of no type, or of no shape."""
    if tensor.data_type not in _KINDS or any(size < 0 for size in tensor.dims):
        kind = f"type {tensor.data_type} and dims {list(tensor.dims)}"
        raise unreadable(str(path), f"in it is a tensor {tensor.name!r} of {kind}", error)
    if tensor.data_type == onnx.TensorProto.STRING and is_external(tensor):
        raise unreadable(str(path), f"in it is a tensor {tensor.name!r} of strings that lie in another file", error)


def array_of(tensor: onnx.TensorProto, data: Bytes) -> Array:
    """The values of a tensor whose bytes these are: a view of them, where an entry is a byte or more."""
    kind = ir.DataType(tensor.data_type)
    if kind.bitwidth >= 8:
        array: Array = data.view(kind.numpy().newbyteorder("<")).reshape(tuple(tensor.dims))
        return array
    packed = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data.tobytes())
    return np.asarray(ir.serde.deserialize_tensor(packed).numpy())


def is_external(tensor: onnx.TensorProto) -> bool:
    """True where the bytes lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _is_taken(tensor: onnx.TensorProto) -> bool:
    return is_external(tensor) and any(entry.value == _PLACE for entry in tensor.external_data)


def nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor of this type and these dims."""
    bits: int = math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth
    return -(-bits // 8)


def embed(tensor: onnx.TensorProto, data: Bytes) -> None:
    """Put the bytes into the tensor itself."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = data.tobytes()


def _require(path: Path, tensor: onnx.TensorProto, is_whole: bool) -> None:
    if not is_whole:
        found = f"in it is a tensor {tensor.name!r} that does not hold the {list(tensor.dims)} values it says it does"
        raise unreadable(str(path), found)


def _entries(tensor: onnx.TensorProto) -> int:
    fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return max(map(len, fields))
