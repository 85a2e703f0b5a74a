"""``dense``: one matrix product with ``W [m, n]``, as the graph has it; the file stores the surviving blocks or
the factors."""

from __future__ import annotations

from kronfx import price
from kronfx.deploy.find.layers import Layer


def refusal(_: Layer) -> None:
    """Never."""


def stored(layer: Layer) -> int:
    """Bytes: the smallest of the survivors, the factors and the whole weight."""
    return layer.storage.bytes if layer.storage is not None else layer.dense_bytes


def cost(layer: Layer, rows: int) -> float:
    """One large product."""
    return price.dense(*layer.survivors.dims, rows)
