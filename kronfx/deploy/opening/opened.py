"""The way from a file to a graph: parsed, looked at, mended, made a graph, its constants folded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from kronfx.deploy.nodes.values import Array
from kronfx.deploy.opening.constants import lift
from kronfx.deploy.opening.defects import drop_stale_types, maps_set_aside, mend
from kronfx.deploy.opening.external import Folder
from kronfx.deploy.opening.opset import modernized
from kronfx.deploy.opening.original import Original
from kronfx.deploy.opening.protos import parsed, reading, tensors, unreadable
from kronfx.deploy.opening.sparse import densify
from kronfx.deploy.opening.structure import require_forms, require_text
from kronfx.deploy.opening.values import KIND, is_external, put_back, require_kind, take_out
from kronfx.errors import ExportError


@dataclass(frozen=True, slots=True)
class Opened:
    """A file as a graph whose constants are initializers; ``changes`` say what had to be done to it for that."""

    model: ir.Model
    original: Original
    changes: tuple[str, ...] = ()


def opened(src: object) -> Opened:
    """The graph of a file. Raises ExportError where it is none, or reads data from outside its folder."""
    path, proto = parsed(src, ExportError)
    require_text(path, proto)
    outside = [tensor for tensor in tensors(proto) if is_external(tensor)]
    folder, taken = Folder.of(path, outside), list[Array]()
    for tensor in outside:  # before anything is done to the message, where a place of our own could be mistaken for one
        require_kind(path, tensor)
        folder.bytes_of(tensor)
    densify(path, proto, taken, folder.bytes_of)
    take_out(path, proto, taken, folder.bytes_of)
    require_forms(path, proto)
    mend(proto)
    proto, conversion = modernized(path, proto)
    repairs = drop_stale_types(proto)
    maps = maps_set_aside(proto)
    with reading(path, "its graph cannot be read"):
        model = ir.serde.deserialize_model(proto)
        put_back(model, taken)
        model.graph.sort()
    _require_sources(path, model)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name in maps:
            value.meta[KIND] = maps[value.name]
    lift(path, model)
    original = Original(folder.model, path.stat().st_size + folder.bytes, folder.files)
    return Opened(model, original, (*conversion, *repairs))


def _require_sources(path: Path, model: ir.Model) -> None:
    """Everything that is read is made somewhere."""
    read = [value for node in model.graph.all_nodes() for value in node.inputs if value is not None]
    for value in (*read, *(value for graph in model.graphs() for value in graph.outputs)):
        if value.producer() is None and not value.is_graph_input() and not value.is_initializer():
            raise unreadable(str(path), f"in it is read what nothing makes, {value.name!r}")
