"""Writing a graph: without what the exporter left in it, with kronfx's record, in one file or with external data."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import onnx
import onnx_ir as ir

from kronfx.deploy.find.names import renamed
from kronfx.deploy.opening.protos import PROTOBUF_LIMIT
from kronfx.deploy.opening.replaced import data_name
from kronfx.deploy.opening.values import INFERRED, KIND
from kronfx.deploy.records.report import RECORD_KEY, ExportedLayer, to_record
from kronfx.errors import ExportError, reason
from kronfx.files import unwritable

PRODUCER, SOURCE_KEY = "kronfx", "kronfx.source"  # who writes a file; in its metadata: who wrote what it was made of


def stripped(model: ir.Model) -> ir.Model:
    """The model without stack traces and other leftovers of the export: they are large and name this machine's
    files. What it says about modules is in the names of its nodes."""
    renamed(model.graph)
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
    return model


def untyped(model: ir.Model) -> ir.Model:
    """The model without types of initializers, which their tensors tell already, and without those that the source did
    not tell either: a file that is written a second time must not grow."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in set(graph.initializers.values()) - set(graph.outputs) - set(graph.inputs):
            value.type = value.shape = None
    for node in model.graph:
        for value in node.outputs:
            if value.meta.get(INFERRED) and not value.is_graph_output():
                value.type = value.shape = None
    return model


def terse(model: ir.Model) -> ir.Model:
    """The model with short names where they tell nothing (``val_123``): in a file of 40 KB they are 1%."""
    graphs = (model.graph, *model.graph.subgraphs())
    taken = {value.name for graph in graphs for value in (*graph.inputs, *graph.initializers.values())}
    taken |= {value.name for graph in graphs for node in graph for value in node.outputs}
    free = (name for i in count() if (name := f"k{i}") not in taken)
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs and (value.name or "").startswith("val_"):
                value.name = next(free)
    return model


def signed(model: ir.Model, layers: tuple[ExportedLayer, ...]) -> ir.Model:
    """The model with kronfx's own record in its metadata, and who wrote the source."""
    source = " ".join(filter(None, (model.producer_name, model.producer_version)))
    model.metadata_props[RECORD_KEY] = to_record(layers)
    if source and model.producer_name != PRODUCER:
        model.metadata_props[SOURCE_KEY] = source
    model.producer_name, model.producer_version = PRODUCER, None
    return model


def save(model: ir.Model, path: Path, target: Path, limit: int = PROTOBUF_LIMIT) -> int:
    """Write the model; its weights go into ``data_name`` beside it where one file cannot hold them. Returns bytes.

    Raises ExportError where the system refuses; it names the ``target`` that the file is for.
    """
    weights = [value for graph in model.graphs() for value in graph.initializers.values()]
    size = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
    data = path.with_name(data_name(target)) if size > limit - 2**24 else None  # 16 MiB for everything else
    try:
        ir.save(model, path, external_data=None if data is None else data.name)
        _retype(model, path)
    except OSError as refused:
        raise unwritable(target, refused.strerror or str(refused), ExportError) from refused
    except Exception as error:  # onnx_ir meets attributes and types that no message can hold as any exception
        found = f"a graph that cannot be written ({reason(error)})"
        raise ExportError("", found, "a graph that ONNX has words for", "export the source anew") from error
    return path.stat().st_size + (data.stat().st_size if data is not None else 0)


def _retype(model: ir.Model, path: Path) -> None:
    """The types that onnx_ir has no words for, maps, into the file."""
    values = (*model.graph.inputs, *model.graph.outputs)
    kinds = {value.name: value.meta[KIND] for value in values if KIND in value.meta}
    if not kinds:
        return
    written = onnx.load(path, load_external_data=False)
    for info in (*written.graph.input, *written.graph.output):
        if info.name in kinds:
            info.type.CopyFrom(kinds[info.name])
    onnx.save(written, path)


def _strip_value(value: ir.Value) -> None:
    value.metadata_props.clear()
    value.doc_string = None
