"""Where in a file's graph its layers are, for viewers that know nodes by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from kronfx.deploy.find.names import scope_of
from kronfx.deploy.find.spellings import SPELLINGS
from kronfx.deploy.nodes.values import is_constant
from kronfx.deploy.opening.protos import parsed
from kronfx.errors import InspectError, reason

_Readers = dict[str, list[ir.Node]]


@dataclass(frozen=True, slots=True)
class Places:
    """The name of a ``graph``, and ``nodes``: of each layer, by its site, the node that is its product, or the first
    that is the layer's alone where the product is also for others."""

    graph: str
    nodes: dict[str, str]


def places(path: str | os.PathLike[str], sites: Iterable[str]) -> Places:
    """The places of those of the ``sites`` that are found. Raises InspectError where the file is no ONNX file.

    A node is found by the module's path in its name or its metadata, else by the name of a constant that it reads,
    directly or through nodes that a runtime folds. Nodes without a name have the one that onnx_ir gives them.
    """
    file, proto = parsed(path, InspectError)
    try:
        model = ir.from_proto(proto)
        NameFixPass()(model)
    except Exception as error:  # onnx_ir trips over a damaged file in any way there is
        found = f"a graph that onnx_ir does not read ({reason(error)})"
        raise InspectError(str(file), found, "a valid ONNX file", "check it with onnx.checker") from error
    by_path, by_constant = _by_path(model.graph), _by_constant(model.graph)
    found_at = {site: _product(by_path.get(site) or _reading(site, by_constant)) for site in sites}
    return Places(model.graph.name or "<main>", {site: name for site, name in found_at.items() if name})


def _by_path(graph: ir.Graph) -> _Readers:
    nodes: _Readers = {}
    for node in graph:
        if scope := scope_of(node):
            nodes.setdefault(scope.path, []).append(node)
    return nodes


def _by_constant(graph: ir.Graph) -> _Readers:
    """The nodes that read each constant beside something that is none."""
    readers: _Readers = {}
    made_of = {value: {name} for name, value in graph.initializers.items() if is_constant(value)}
    for node in graph:
        read = [made_of[value] for value in node.inputs if value in made_of]
        if len(read) == sum(value is not None for value in node.inputs):
            names = set().union(*read)
            made_of |= {value: names or {value.name or ""} for value in node.outputs}
        else:
            for name in {name for names in read for name in names}:
                readers.setdefault(name, []).append(node)
    return readers


def _reading(site: str, readers: _Readers) -> list[ir.Node]:
    """The nodes that read what is called after a site."""
    own = [nodes for name, nodes in readers.items() if name == site or name.startswith((f"{site}/", f"{site}."))]
    return [node for nodes in own for node in nodes]


def _product(nodes: Sequence[ir.Node]) -> str | None:
    products = (node for node in nodes if f"{node.domain}.{node.op_type}".lstrip(".") in SPELLINGS)
    node = next(products, next(iter(nodes), None))
    return None if node is None else node.name
