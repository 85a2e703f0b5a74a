"""Whether an ONNX file would gain: its zero blocks counted at many shapes, and what would become of each weight.

All of :func:`kronfx.sparsify_onnx` but the clock and the writing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kronfx.deploy.choose.rows import exported
from kronfx.deploy.choose.tuning import choose
from kronfx.deploy.find.grid import Pattern
from kronfx.deploy.find.layers import LinearMaps, linear_maps
from kronfx.deploy.find.left import left_constants
from kronfx.deploy.nodes.values import Array
from kronfx.deploy.options import SparsifyOptions
from kronfx.deploy.records.forecast import GRIDS, Counted, Forecast
from kronfx.deploy.source import read_source
from kronfx.progress import bar


def forecast(src: str | os.PathLike[str]) -> Forecast:
    """What ``kronfx.sparsify_onnx`` can be expected to make of a file. Raises ExportError."""
    options = SparsifyOptions(tune=False)
    with bar("inspect", 3) as step:
        step("reading")
        source = read_source(src)
        step("looking at the weights")
        maps = linear_maps(source.model.graph, source.weights)
        maps = replace(maps, left=left_constants(source.model.graph, maps, None))
        step("choosing the lowerings")
        layers = exported(maps, choose(maps.layers, options).best)
        weights = tuple(_counted(name, alive) for name, alive in _alive(maps))
    size = 0 if source.original is None else source.original.bytes
    return Forecast(os.fspath(src), size, source.ours, tuple(options.rows), weights, layers)


def _alive(maps: LinearMaps) -> Iterator[tuple[str, Array]]:
    """Every weight once, as what of it is not zero: ``[m, n]``."""
    read = set()
    for layer in maps.layers:
        if layer.linear.weight not in read:
            read.add(layer.linear.weight)
            yield layer.name, layer.linear.W != 0
    for left in maps.left:
        mask, (m2, n2) = left.survivors.mask, left.survivors.shape.block
        yield left.name, np.kron(mask, np.ones((m2, n2), bool))


def _counted(name: str, alive: Array) -> Counted:
    (m, n), pattern = alive.shape, Pattern(alive)
    zero_blocks = tuple(
        m * n // (m2 * n2) - pattern.blocks((m2, n2)) if m % m2 == 0 and n % n2 == 0 else None for m2, n2 in GRIDS
    )
    return Counted(name, m, n, 1 - np.count_nonzero(alive) / max(1, alive.size), zero_blocks)
