"""Storage: how a file keeps the weight of a layer that runs dense, so that constant nodes rebuild it.

One file for each way. A runtime folds the nodes when it loads the file, for all they read are constants, and runs the
dense product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.storage.blocks import Survivors, survivors
from kronfx.deploy.storage.factors import Product, product, products

__all__ = ["Product", "Storage", "Survivors", "fewest_bytes", "product", "products", "store", "survivors"]

# What nodes and their names cost in the file, at most; a weight that would not win this much stays as it is.
_NODE_BYTES = 1000


class Storage(Protocol):
    """One way to keep ``W [m, n]``."""

    @property
    def dims(self) -> tuple[int, int]:
        """``(m, n)``."""

    @property
    def bytes(self) -> int:
        """Size of what is stored."""

    def turned(self) -> Storage:
        """The same of ``W^T``."""

    def rebuilt(self, build: Builder, site: str) -> ir.Value:
        """``W``, by nodes whose constants are named after the site."""


def fewest_bytes(kept: Survivors, factors: Product | None) -> Storage | None:
    """The way that takes the fewest bytes; None where ``W`` as it is takes no more."""
    m, n = kept.dims
    best: Storage = kept
    if factors is not None and factors.bytes < kept.bytes:
        best = factors
    return best if best.bytes + _NODE_BYTES < m * n * kept.blocks.itemsize else None


def store(graph: ir.Graph, site: str, kept: Storage, upright: Sequence[ir.Value], turned: Sequence[ir.Value]) -> None:
    """Replace initializers by nodes that rebuild them: ``upright`` ones are ``W [m, n]``, ``turned`` ones ``[n, m]``.

    Trailing axes of length 1, as a 1x1 convolution's, are kept. However many there are, it is stored once.
    """
    build = Builder(graph)
    build.anchor = graph[0]
    if turned and not upright:  # what is stored turned is rebuilt turned
        kept = kept.turned()
        upright, turned = turned, upright
    m, n = kept.dims
    weight = kept.rebuilt(build, site)
    for value in upright:
        _replace(graph, value, _as_stored(build, weight, value, (m, n)))
    if turned:
        transposed = build.op("Transpose", weight, perm=[1, 0])
        for value in turned:
            _replace(graph, value, _as_stored(build, transposed, value, (n, m)))
    for node in build.made:
        node.name = ""  # nothing will ever time or debug them: they are gone once the file is loaded


def _as_stored(build: Builder, weight: ir.Value, value: ir.Value, dims: tuple[int, int]) -> ir.Value:
    shape = tuple(value.const_value.shape.numpy()) if value.const_value is not None else dims
    return weight if shape == dims else build.op("Reshape", weight, build.integers(*shape))


def _replace(graph: ir.Graph, value: ir.Value, dense: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(value, dense)
    if value.name:
        del graph.initializers[value.name]
