"""Matrices as pictures of few bytes: one byte a cell, and no more cells than a page can carry."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronfx.page.view import BlockMap, Picture

Floats = NDArray[np.floating[Any]]
FINEST, COARSEST = 64, 20  # cells a side
BYTES = 3 << 20  # of pictures in a page, about
_PICTURES = 8  # that a factored layer has: its map, S, and a few terms of A and B


def cells_a_side(layers: int) -> int:
    """How finely the pictures of so many layers may be drawn: 64 cells a side up to 72 layers, 24 for 500."""
    return int(np.clip(np.sqrt(BYTES * 3 / 4 / _PICTURES / max(layers, 1)), COARSEST, FINEST))


def picture(name: str, matrix: Floats, side: int, signed: bool = False) -> Picture:
    """``matrix [rows, columns]`` as at most ``side x side`` cells; ``signed`` keeps signs."""
    values = np.nan_to_num(np.asarray(matrix, np.float64))
    cells = _covered(values, side) if signed else np.sqrt(_covered(values**2, side))
    top = float(np.abs(cells).max(initial=0.0))
    scaled = cells / (top or 1.0)
    levels = np.rint(128 + 127 * scaled) if signed else np.where(cells > 0, 1 + np.rint(254 * scaled), 0)
    (rows, columns), (height, width) = values.shape, cells.shape
    encoded = b64encode(levels.astype(np.uint8).tobytes()).decode()
    return Picture(name, rows, columns, height, width, encoded, top, signed)


def block_map(norms: Floats, side: int) -> BlockMap:
    """``norms [m1, n1]``, exactly zero where a block is; a stack's are one below the other. Twice as fine as others."""
    norms = np.asarray(norms, np.float64)
    drawn = picture("norms of blocks", norms, min(2 * side, FINEST))
    rows, columns = _sums(norms, 1, drawn.height), _sums(norms, 0, drawn.width)
    return BlockMap(drawn, rows, columns)


def _sums(norms: Floats, axis: int, cells: int) -> tuple[float, ...]:
    """Of each block row (``axis`` 1) or column, the mean over those that share a cell."""
    sums = np.nan_to_num(norms).sum(axis)
    return tuple(float(f"{part.mean():.4g}") for part in np.array_split(sums, cells))


def _covered(values: Floats, side: int) -> Floats:
    """Mean over the cells of a grid of at most ``side x side``."""
    rows, columns = values.shape
    height, width = min(rows, side), min(columns, side)
    starts = [np.array([part[0] for part in np.array_split(np.arange(length), cells)])
              for length, cells in ((rows, height), (columns, width))]  # fmt: skip
    counts = [np.diff([*start, length]) for start, length in zip(starts, values.shape)]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], 0), starts[1], 1)
    return np.asarray(sums / np.outer(*counts))
