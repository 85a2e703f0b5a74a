"""Storage: how a file keeps the weight of a layer that runs dense, so that constant nodes rebuild it.

One file for each way, one row each in the table below. A runtime folds the nodes when it loads the file, for all they
read are constants, and runs the dense product.

To add a storage: a file with a frozen class that is a ``Storage``, and a function that makes one of the surviving
blocks of ``W``, and of its factors where it has any, or answers None where it cannot; a row here. The one of the fewest
bytes is taken. ``tests/deploy/storage/test_rows.py`` rebuilds ``W`` and ``W^T`` by every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.unique import Unique, stem
from kronfx.deploy.storage import blocks, factors
from kronfx.deploy.storage.blocks import Survivors, survivors
from kronfx.deploy.storage.factors import Product, product, products
from kronfx.deploy.storage.shared import Shared

__all__ = [
    "STORAGES", "Product", "Shared", "Storage", "Survivors", "fewest_bytes", "product", "products", "store",
    "survivors",
]  # fmt: skip

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

    @property
    def T(self) -> Storage:
        """The same of ``W^T``."""

    def rebuilt(self, build: Builder, site: str) -> ir.Value:
        """``W``, by nodes whose constants are named after the site."""


STORAGES: dict[str, Callable[[Survivors, Product | None], Storage | None]] = {
    "blocks": blocks.storage,
    "factors": factors.storage,
}


def fewest_bytes(alive: Survivors, product: Product | None) -> Storage | None:
    """The way that takes the fewest bytes, the first of equals; None where ``W`` as it is takes no more."""
    m, n = alive.dims
    ways = [way for make in STORAGES.values() if (way := make(alive, product)) is not None]
    best = min(ways, key=lambda way: way.bytes)
    return best if best.bytes + _NODE_BYTES < m * n * alive.blocks.itemsize else None


def store(
    graph: ir.Graph, site: str, storage: Storage, upright: Sequence[ir.Value], transposed: Sequence[ir.Value]
) -> None:
    """Replace initializers by nodes that rebuild them: ``upright`` ones are ``W [m, n]``, ``transposed`` ``[n, m]``.

    Trailing axes of length 1, as a 1x1 convolution's, are kept. However many there are, it is stored once.
    """
    build = Builder(graph)
    build.anchor = graph[0]
    if transposed and not upright:  # what the graph has transposed only is rebuilt transposed
        storage = storage.T
        upright, transposed = transposed, upright
    m, n = storage.dims
    W = storage.rebuilt(build, site)
    for value in upright:
        _replace(graph, value, _as_stored(build, W, value, (m, n)))
    if transposed:
        W_T = build.op("Transpose", W, perm=[1, 0])
        for value in transposed:
            _replace(graph, value, _as_stored(build, W_T, value, (n, m)))
    free = Unique(node.name for node in graph)
    for node in build.made:  # in a folder of their own: they are gone once the file is loaded
        node.name = free(f"{stem(site)}/W/{node.op_type}")


def _as_stored(build: Builder, weight: ir.Value, value: ir.Value, dims: tuple[int, int]) -> ir.Value:
    shape = tuple(value.const_value.shape.numpy()) if value.const_value is not None else dims
    return weight if shape == dims else build.op("Reshape", weight, build.integers(*shape))


def _replace(graph: ir.Graph, value: ir.Value, dense: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(value, dense)
    if value.name:
        del graph.initializers[value.name]
