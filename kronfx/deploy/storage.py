"""Storage: a block-sparse constant is kept as its surviving blocks, and constant nodes rebuild it.

``W [m, n]`` on a grid of ``m1 x n1`` blocks becomes ``blocks [nnz m2, n2]``, the rows of all surviving blocks one below
the other, and ``gaps [nnz, 1]``: the distances between consecutive positions ``p n1 + j`` of the survivors, the first
one from 0, in the smallest integer type that holds them.

    slot [m1, 1, n1] = ScatterND(nnz, CumSum(gaps), 0 .. nnz - 1)          # which survivor lies at (p, j); nnz: none
    W[p m2 + q, j n2 : (j + 1) n2] = Concat(blocks, 0)[slot[p, 0, j] m2 + q]

All inputs are constants, so a runtime folds the nodes when it loads the file and runs the dense product. One Gather of
block rows writes the whole weight once: scattering blocks into zeros and transposing the grid writes it three times
(6144 x 4096 at 10%: loading took 2.7 times as long as that of the dense file, now see the README).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.builder import Array, Builder, smallest
from kronfx.records import KroneckerShape

# What nodes and their names cost in the file, at most; a weight that would not win this much stays dense.
_NODE_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Survivors:
    """``blocks [nnz, m2, n2]`` and ``gaps [nnz, 1]`` of one weight ``W [m, n]``; ``mask [m1, n1]`` says which
    they are."""

    shape: KroneckerShape
    mask: Array
    blocks: Array
    gaps: Array

    @property
    def zero_blocks(self) -> int:
        """Blocks that are not stored."""
        return self.shape.blocks - len(self.blocks)

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        return int(self.blocks.nbytes + self.gaps.nbytes)

    @property
    def pays(self) -> bool:
        """True where storing the survivors makes a smaller file than storing ``W``."""
        dense = self.shape.m * self.shape.n * self.blocks.itemsize
        return self.bytes + _NODE_BYTES < dense


def survivors(W: Array, shape: KroneckerShape) -> Survivors:
    """The blocks of ``W [m, n]`` with a non-zero entry, in row-major order of the grid."""
    grid = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2).transpose(0, 2, 1, 3)
    mask = (grid != 0).any(axis=(2, 3))
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=0)
    kind = smallest(int(gaps.max(initial=0)))
    return Survivors(shape, mask, np.ascontiguousarray(grid[mask]), gaps.astype(kind)[:, None])


def store(graph: ir.Graph, site: str, kept: Survivors, upright: Sequence[ir.Value], turned: Sequence[ir.Value]) -> None:
    """Replace initializers by nodes that rebuild them: ``upright`` ones are ``W [m, n]``, ``turned`` ones ``[n, m]``.

    Trailing axes of length 1, as a 1x1 convolution's, are kept. However many there are, the survivors are stored once.
    """
    build = Builder(graph)
    build.anchor = graph[0]
    shape = kept.shape
    if turned and not upright:  # what is stored turned is rebuilt turned
        shape, kept = _transposed(kept)
        upright, turned = turned, upright
    weight = _rebuilt(build, site, kept)
    for value in upright:
        _replace(graph, value, _as_stored(build, weight, value, (shape.m, shape.n)))
    if turned:
        transposed = build.op("Transpose", weight, perm=[1, 0])
        for value in turned:
            _replace(graph, value, _as_stored(build, transposed, value, (shape.n, shape.m)))


def _transposed(kept: Survivors) -> tuple[KroneckerShape, Survivors]:
    shape = KroneckerShape(kept.shape.n1, kept.shape.m1, kept.shape.n2, kept.shape.m2)
    W = np.zeros((kept.shape.m1, kept.shape.n1, *kept.shape.block), kept.blocks.dtype)
    W[kept.mask] = kept.blocks
    return shape, survivors(W.transpose(1, 3, 0, 2).reshape(shape.m, shape.n), shape)


def _rebuilt(build: Builder, site: str, kept: Survivors) -> ir.Value:
    """``W [m, n]`` from its survivors."""
    shape, count = kept.shape, len(kept.blocks)
    blocks = build.constant(f"{site}/blocks", kept.blocks.reshape(-1, shape.n2))
    gaps = build.constant(f"{site}/gaps", kept.gaps)
    position = build.op("CumSum", build.op("Cast", gaps, to=ir.DataType.INT64), build.integers())
    nowhere = build.op(
        "ConstantOfShape", build.integers(shape.blocks), value=ir.tensor(np.array([count * shape.m2], np.int64))
    )
    start = build.op("Range", build.integers(), _scalar(build, count * shape.m2), _scalar(build, shape.m2))
    slot = build.op("ScatterND", nowhere, position, start)
    slots = build.op("Reshape", slot, build.integers(shape.m1, 1, shape.n1))
    within = build.op("Range", build.integers(), _scalar(build, shape.m2), _scalar(build, 1))
    rows = build.op("Add", slots, build.op("Reshape", within, build.integers(shape.m2, 1)))
    zeros = build.op(
        "ConstantOfShape", build.integers(shape.m2, shape.n2), value=ir.tensor(np.zeros(1, kept.blocks.dtype))
    )
    spread = build.op("Gather", build.op("Concat", blocks, zeros, axis=0), rows, axis=0)
    return build.op("Reshape", spread, build.integers(shape.m, shape.n))


def _scalar(build: Builder, number: int) -> ir.Value:
    return build.constant(f"kronfx/scalar/{number}", np.array(number, dtype=np.int64))


def _as_stored(build: Builder, weight: ir.Value, value: ir.Value, dims: tuple[int, int]) -> ir.Value:
    shape = tuple(value.const_value.shape.numpy()) if value.const_value is not None else dims
    return weight if shape == dims else build.op("Reshape", weight, build.integers(*shape))


def _replace(graph: ir.Graph, value: ir.Value, dense: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(value, dense)
    if value.name:
        del graph.initializers[value.name]
