"""An ONNX file as the message that it is: parsed, and walked through."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from kronfx.errors import ExportError, KronfxError, reason

PROTOBUF_LIMIT = 2**31 - 1  # bytes: one protobuf message, which an ONNX file is, cannot be larger
NodeProtos = Iterable[onnx.NodeProto]


def parsed(path: object, error: type[KronfxError]) -> tuple[Path, onnx.ModelProto]:
    """The file and what it says; external data is not read. Raises ``error`` where it is no ONNX file."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise unreadable(repr(path), f"a {type(path).__name__}", error)
    name = os.fsdecode(path)
    try:
        status = Path(name).stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # a pipe would have us wait
            raise unreadable(name, "no regular file", error)
        if status.st_size > PROTOBUF_LIMIT:
            raise unreadable(name, f"{status.st_size:,} bytes, and no ONNX file has 2 GiB", error)
        model = onnx.ModelProto.FromString(Path(name).read_bytes())
    except OSError as refused:
        raise unreadable(name, f"cannot be read: {refused.strerror or refused}", error) from None
    except (DecodeError, ValueError) as refused:  # no message; a NUL in the path
        raise unreadable(name, f"not in the ONNX format ({type(refused).__name__})", error) from None
    if not model.ir_version or not model.graph.node:  # protobuf reads some files of other kinds as an empty model
        raise unreadable(name, "no ONNX graph in it", error)
    return Path(name), model


def nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node: of the graph, of its functions, and of all bodies in them."""
    yield from _nodes(model.graph.node)
    for function in model.functions:
        yield from _nodes(function.node)


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph, and the bodies of ``If``, ``Loop`` and ``Scan``, those in functions too."""
    yield model.graph
    for node in nodes(model):
        yield from bodies(node)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node runs."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it stands."""
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(model):
        yield from _of_attributes(node.attribute)
    for function in model.functions:
        yield from _of_attributes(function.attribute_proto)


@contextmanager
def reading(path: Path, found: str) -> Iterator[None]:
    """Around a call of another library: what it raises over what the file holds is one sentence that names the file.

    Their readers have no common class of errors, and trip over a damaged file in any way there is.
    """
    try:
        yield
    except KronfxError:
        raise
    except Exception as error:
        raise unreadable(str(path), f"{found} ({reason(error)})") from error


def unreadable(name: str, found: str, error: type[KronfxError] = ExportError) -> KronfxError:
    """The sentence of a file that is none."""
    return error(name, found, "an ONNX file", "give the path of a file that an exporter wrote")


def _nodes(these: NodeProtos) -> Iterator[onnx.NodeProto]:
    for node in these:
        yield node
        for body in bodies(node):
            yield from _nodes(body.node)


def _of_attributes(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        sparse = [
            *attribute.sparse_tensors,
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        ]
        for tensor in sparse:
            yield from (tensor.values, tensor.indices)
