"""``dense``: one matrix product with ``W [m, n]``, as the graph has it; the file stores the surviving blocks or
the factors."""

from __future__ import annotations

from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.lowerings import price


def refusal(_: Layer) -> None:
    """Never."""


def stored(layer: Layer) -> int:
    """Bytes: the smallest of the survivors, the factors and the whole weight."""
    return layer.storage.bytes if layer.storage is not None else layer.dense_bytes


def cost(layer: Layer, rows: int) -> float:
    """``m n (N + 12)`` and a node."""
    m, n = layer.survivors.dims
    return m * n * (rows + price.WEIGHT) + price.NODE
