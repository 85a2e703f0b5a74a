"""Convolutions that a graph has as the factors they were trained as: they are no products of two matrices, and run as
torch's exporter writes them, an Einsum that mixes blocks of channels and a Conv by all ``B_i``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.find.names import scope_of


@dataclass(frozen=True, slots=True)
class FactoredConvolution:
    """What is known of one, and its first node where that can be told."""

    origin: KnownWeight
    node: ir.Node | None


def factored_convolutions(graph: ir.Graph, known: Sequence[KnownWeight]) -> tuple[FactoredConvolution, ...]:
    """Those that are known, each with its place in the graph."""
    first: dict[str, ir.Node] = {}
    for node in graph:
        if (scope := scope_of(node)) is not None:
            first.setdefault(scope.path, node)
    return tuple(FactoredConvolution(weight, first.get(weight.site)) for weight in known)
