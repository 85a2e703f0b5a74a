"""What a person calls a layer: the path of the module that it comes from, where the file tells it.

torch's exporter notes the modules that a node comes from in its metadata; its older one, and other exporters, put them
into the node's name (``/encoder/layer.0/query/MatMul``). What is left of that behind a quantizer is the name of a
bias. A weight whose own name starts with the path keeps that name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from kronfx.deploy.find.linear import Linear
from kronfx.deploy.find.packed import Packed
from kronfx.deploy.nodes.unique import Unique, stem
from kronfx.deploy.nodes.values import is_constant

SCOPE = "kronfx: scope"  # in the meta of a node: its scope, once its metadata is gone
NAMESPACE = "namespace"  # of a node's metadata: the folder, slash separated, that viewers show the node in
_SCOPES = "pkg.torch.onnx.name_scopes"
_LONGEST = 200  # characters: what is longer is no name that a person knows
_BETWEEN = ("Cast", "Mul", "Reshape")  # what a quantizer and an exporter put between a product and its bias


@dataclass(frozen=True, slots=True)
class Scope:
    """The module's ``path``, as in ``encoder.layer.0``, and the ``folder`` that viewers show its nodes in."""

    path: str
    folder: str

    @classmethod
    def of_path(cls, path: str) -> Scope:
        """Where the path is all that is known."""
        return cls(path, stem(path))


def scope_of(node: ir.Node) -> Scope | None:
    """The module that a node comes from, as it was remembered or as its metadata or its name tell it."""
    remembered: Scope | None = node.meta.get(SCOPE)
    return remembered or _told(node)


def remember(graph: ir.Graph) -> None:
    """Read the scopes off a graph whose metadata may go."""
    for node in graph:
        scope = _told(node)
        if scope is not None:
            node.meta[SCOPE] = scope


def renamed(graph: ir.Graph) -> None:
    """Name every node after the module that it comes from, of a graph whose writer numbers them, and takes a viewer's
    folders for metadata, which can go then."""
    free = Unique()
    remember(graph)
    for node in graph:
        scope = node.meta.get(SCOPE)
        node.name = free(node.op_type if scope is None else f"{stem(scope.path)}/{node.op_type}")
        if scope is not None:
            node.meta[SCOPE] = Scope.of_path(scope.path)


def named(linears: Iterable[Linear | Packed], sites: Mapping[ir.Value, str]) -> dict[ir.Value, Scope]:
    """What every weight is called, as the path of a scope: its site, where there is one, else its module's path or its
    own name. No two are called the same."""
    free = Unique(sites.values())
    scopes: dict[ir.Value, Scope] = {}
    for linear in linears:
        if linear.weight in scopes:
            continue
        if linear.weight in sites:
            scopes[linear.weight] = Scope.of_path(sites[linear.weight])
            continue
        own = linear.site or "weight"
        scope = scope_of(linear.node) or _of_bias(linear) or Scope.of_path(own)
        if re.match(rf"{re.escape(scope.path)}[./]", own):
            scope = Scope(own, stem(own) if scope.folder == stem(scope.path) else scope.folder)
        scopes[linear.weight] = Scope(free(scope.path), scope.folder)
    return scopes


def _told(node: ir.Node) -> Scope | None:
    """The module that a node comes from, by its metadata or by its name."""
    told = _listed(node.metadata_props.get(_SCOPES, ""))
    path = told[-2] if len(told) > 1 else ""  # the last one is the node itself
    folder = node.metadata_props.get(NAMESPACE, "").rpartition("/")[0]
    if not told:
        folder = (node.name or "").strip("/").rpartition("/")[0]
        path = folder.replace("/", ".")
    return Scope(path, folder or path.replace(".", "/")) if 0 < len(path) < _LONGEST else None


def _listed(text: str) -> list[str]:
    """A list of strings as Python writes it; none where it is something else."""
    try:
        told = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return told if isinstance(told, list) and all(isinstance(part, str) for part in told) else []


def _of_bias(linear: Linear | Packed) -> Scope | None:
    """The module whose bias is added to a product, by the metadata of that sum or by the bias's name, unless many read
    it: exporters keep equal constants once."""
    if linear.bias is not None:
        return _owner(linear.bias)
    y = linear.y
    for _ in range(len(_BETWEEN) + 1):
        readers = list(y.consumers())
        if len(readers) != 1 or y.is_graph_output():
            return None
        if readers[0].op_type not in _BETWEEN:
            break
        y = readers[0].outputs[0]
    (reader,) = readers
    constants = [value for value in reader.inputs if value is not None and is_constant(value)]
    if reader.op_type != "Add" or not constants:
        return None
    return scope_of(reader) or _owner(constants[0])


def _owner(bias: ir.Value) -> Scope | None:
    name = bias.name or ""
    is_told = is_constant(bias) and name.endswith(".bias") and len(bias.uses()) == 1
    return Scope.of_path(name.removesuffix(".bias")) if is_told else None
