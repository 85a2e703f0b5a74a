"""What a graph has to be before anybody builds on it: readable names, and nodes of the form their operators have.

A runtime asks for the same, and more. It is asked here first so that all rooms behind this one may take it for granted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx

from kronfx.deploy.opening.protos import graphs, nodes, tensors, unreadable
from kronfx.errors import ExportError, KronfxError


@dataclass(frozen=True, slots=True)
class _Form:
    """How many inputs and outputs an operator has, which inputs it cannot do without, and its attributes' types."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed: tuple[int, ...]
    attributes: dict[str, int]
    demanded: frozenset[str]


def require_text(path: Path, model: onnx.ModelProto, error: type[KronfxError] = ExportError) -> None:
    """Raise ``error`` where a name is no text: protobuf hands out as bytes what is no UTF-8."""
    for text in _texts(model):
        if not isinstance(text, str):
            raise unreadable(str(path), f"in it is a name that is no text ({text!r})", error)


def require_forms(path: Path, model: onnx.ModelProto) -> None:
    """Raise ExportError where a node is not of its operator's form."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for function in model.functions:
        versions = {entry.domain: entry.version for entry in function.opset_import} | versions
    for node in nodes(model):
        form = _form(node.op_type, node.domain, versions.get(node.domain, 0))
        problem = _problem(node, form) if form is not None else None
        if problem is not None:
            raise unreadable(str(path), f"in it is a node {node.name!r} ({node.op_type}) with {problem}")


def _problem(node: onnx.NodeProto, form: _Form) -> str | None:
    for what, count, (least, most) in (
        ("inputs", len(node.input), form.inputs),
        ("outputs", len(node.output), form.outputs),
    ):
        if not least <= count <= most:
            return f"{count} {what}"
    if any(not node.input[i] for i in form.needed):
        return "an input left out"
    given = {attribute.name: attribute for attribute in node.attribute}
    for name, attribute in given.items():
        if form.attributes.get(name, attribute.type) != attribute.type:
            return f"an attribute {name!r} of another type"
    missing = form.demanded - set(given)
    return f"no attribute {min(missing)!r}" if missing else None


@cache
def _form(op_type: str, domain: str, version: int) -> _Form | None:
    """None for an operator that ONNX does not know."""
    if not 0 < version < 2**31:  # no version of anything, and none that ONNX's registry could be asked for
        return None
    try:
        schema: Any = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return _Form(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        tuple(i for i, formal in enumerate(schema.inputs) if formal.option == single),
        {name: attribute.type.value for name, attribute in schema.attributes.items()},
        frozenset(name for name, attribute in schema.attributes.items() if attribute.required),
    )


def _texts(model: onnx.ModelProto) -> Iterator[object]:
    yield from (model.producer_name, model.producer_version, model.domain)
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for imported in model.opset_import:
        yield imported.domain
    for graph in graphs(model):
        yield graph.name
        for value in (*graph.input, *graph.output, *graph.value_info):
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in tensors(model):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))
    for node in nodes(model):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
