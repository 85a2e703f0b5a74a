"""Names of the nodes that a lowering puts in place: they begin with the path of their layer, ``encoder/layer.0/fc1``.

Viewers take what is in front of the last slash for a folder. Where the file's other nodes are shown in a folder that
their metadata name, so are these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

import onnx_ir as ir

from kronfx.deploy.find.names import NAMESPACE, Scope
from kronfx.deploy.nodes.unique import Unique, stem

_LONGEST = 32  # characters of the names of layers that share nodes


class Labels:
    """Notes which layers the nodes of a graph are for, and names them when those that they replace have gone."""

    def __init__(self) -> None:
        self._scopes: dict[ir.Node, Sequence[Scope]] = {}

    def note(self, nodes: Iterable[ir.Node], scopes: Sequence[Scope]) -> None:
        """The nodes are for the layers of these scopes, if any is known."""
        self._scopes |= dict.fromkeys(nodes, scopes)

    def put(self, graph: ir.Graph) -> None:
        """Name all nodes that are noted, none as another."""
        free = Unique(node.name for node in graph if node not in self._scopes)
        for node in graph:
            scopes = self._scopes.get(node)
            if scopes is not None:
                stems = [stem(scope.path) for scope in scopes]
                node.name = free(f"{_together(stems)}/{node.op_type}" if stems else node.op_type)
                if stems != (folders := [scope.folder for scope in scopes]):
                    node.metadata_props[NAMESPACE] = "/".join(_shared(folders))


def owners(nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> dict[ir.Node, list[int]]:
    """Which of the ``outputs``, by their places, each of the nodes leads to."""
    leads: dict[ir.Node, list[int]] = {node: [] for node in nodes}
    for place, output in enumerate(outputs):
        stack = [output.producer()]
        while stack:
            node = stack.pop()
            if node in leads and place not in leads[node]:
                leads[node].append(place)
                stack += [value.producer() for value in node.inputs if value is not None]
    return leads


def _together(names: Sequence[str]) -> str:
    """``attention/q+k+v`` of ``attention/q``, ``attention/k``, ``attention/v``; ``attention/q+11`` of a dozen."""
    if len(names) == 1:
        return names[0]
    above = "".join(f"{level}/" for level in _shared([name.rpartition("/")[0] for name in names]))
    own = [name.removeprefix(above) for name in names]
    joined = "+".join(own)
    return above + (joined if len(joined) <= _LONGEST else f"{own[0]}+{len(own) - 1}")


def _shared(folders: Sequence[str]) -> list[str]:
    """The levels that all folders have in common."""
    levels = zip(*(folder.split("/") for folder in folders))
    return [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
