"""Storage: a block-sparse constant is kept as its surviving blocks, and constant nodes rebuild it.

``W [m, n]`` on a grid of ``m1 x n1`` blocks becomes ``blocks [nnz m2 + 1, n2]``, the rows of all surviving blocks one
below the other and a row of zeros (which nodes add where it would count), and a table of where they belong:

    W[p m2 + q, j n2 : (j + 1) n2] = blocks[min(slot[p, 0, j] + q, nnz m2)]
    slot [m1, 1, n1]: the survivor's first row, or that of zeros

Where blocks are so small that ``slot`` would count, ``gaps [nnz, 1]`` are stored instead, the distances between
consecutive positions ``p n1 + j`` of the survivors, the first one from 0, in the smallest integer type that holds them:

    slot = ScatterND(nnz m2, CumSum(gaps), first rows)

All inputs are constants, so a runtime folds the nodes when it loads the file and runs the dense product. One Gather of
block rows writes the whole weight once: scattering blocks into zeros and transposing the grid writes it three times and
loaded 2.7 times as long as the dense file (6144 x 4096, 10% of 32x32 blocks). Every node more costs about 0.1 ms a
load.
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
ZEROS = 0.005  # of the survivors' bytes: the largest row of zeros that is stored
TABLE = 0.02  # of the survivors' bytes: the largest table of slots; a file may be 5% larger than what survives


@dataclass(frozen=True, slots=True)
class Survivors:
    """``blocks [nnz, m2, n2]`` and ``gaps [nnz, 1]`` of one weight ``W [m, n]``; ``mask [m1, n1]`` says which
    they are."""

    shape: KroneckerShape
    mask: Array
    blocks: Array
    gaps: Array
    dims: tuple[int, int]  # (m, n), less than one block short of the grid where that is padded

    @property
    def zero_blocks(self) -> int:
        """Blocks that are not stored."""
        return self.shape.blocks - len(self.blocks)

    @property
    def slots(self) -> Array:
        """``slot [m1, 1, n1]``: where each block's rows begin."""
        slots = np.full(self.mask.shape, len(self.blocks) * self.shape.m2, np.int32)
        slots[self.mask] = np.arange(len(self.blocks)) * self.shape.m2
        return slots[:, None]

    @property
    def by_slots(self) -> bool:
        """True where a table of all blocks is small beside the survivors."""
        return 4 * self.shape.blocks <= TABLE * self.blocks.nbytes

    @property
    def with_zeros(self) -> bool:
        """True where a row of zeros is small beside the survivors: then it is stored, which spares copying them."""
        return self._row <= ZEROS * self.blocks.nbytes

    @property
    def _row(self) -> int:
        return int(self.shape.n2 * self.blocks.itemsize)

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        table = 4 * self.shape.blocks if self.by_slots else self.gaps.nbytes
        return int(self.blocks.nbytes + (self._row if self.with_zeros else 0) + table)

    @property
    def pays(self) -> bool:
        """True where storing the survivors makes a smaller file than storing ``W``."""
        dense = self.dims[0] * self.dims[1] * self.blocks.itemsize
        return self.bytes + _NODE_BYTES < dense


def survivors(W: Array, shape: KroneckerShape) -> Survivors:
    """The blocks of ``W [m, n]`` with a non-zero entry, in row-major order of the grid."""
    dims = W.shape[0], W.shape[1]
    if dims != (shape.m, shape.n):
        W = np.pad(W, ((0, shape.m - dims[0]), (0, shape.n - dims[1])))
    grid = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2).transpose(0, 2, 1, 3)
    mask = (grid != 0).any(axis=(2, 3))
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=0)
    kind = smallest(int(gaps.max(initial=0)))
    return Survivors(shape, mask, np.ascontiguousarray(grid[mask]), gaps.astype(kind)[:, None], dims)


def store(graph: ir.Graph, site: str, kept: Survivors, upright: Sequence[ir.Value], turned: Sequence[ir.Value]) -> None:
    """Replace initializers by nodes that rebuild them: ``upright`` ones are ``W [m, n]``, ``turned`` ones ``[n, m]``.

    Trailing axes of length 1, as a 1x1 convolution's, are kept. However many there are, the survivors are stored once.
    """
    build = Builder(graph)
    build.anchor = graph[0]
    if turned and not upright:  # what is stored turned is rebuilt turned
        kept = _transposed(kept)
        upright, turned = turned, upright
    m, n = kept.dims
    weight = _rebuilt(build, site, kept)
    for value in upright:
        _replace(graph, value, _as_stored(build, weight, value, (m, n)))
    if turned:
        transposed = build.op("Transpose", weight, perm=[1, 0])
        for value in turned:
            _replace(graph, value, _as_stored(build, transposed, value, (n, m)))
    for node in list(graph):
        if node is build.anchor:
            break
        node.name = ""  # nothing will ever time or debug them: they are gone once the file is loaded


def _transposed(kept: Survivors) -> Survivors:
    shape = KroneckerShape(kept.shape.n1, kept.shape.m1, kept.shape.n2, kept.shape.m2)
    W = np.zeros((kept.shape.m1, kept.shape.n1, *kept.shape.block), kept.blocks.dtype)
    W[kept.mask] = kept.blocks
    turned = W.transpose(1, 3, 0, 2).reshape(shape.m, shape.n)
    return survivors(turned[: kept.dims[1], : kept.dims[0]], shape)


def _rebuilt(build: Builder, site: str, kept: Survivors) -> ir.Value:
    """``W [m, n]`` from its survivors."""
    shape = kept.shape
    rows = kept.blocks.reshape(-1, shape.n2)
    nothing = np.zeros_like(rows, shape=(1, shape.n2))
    if kept.with_zeros:
        blocks = build.constant(f"{site}/blocks", np.concatenate([rows, nothing]))
    else:
        row = build.op("Expand", build.constant(f"k/zero/{rows.dtype}", nothing[:, :1]), build.integers(1, shape.n2))
        blocks = build.op("Concat", build.constant(f"{site}/blocks", rows), row, axis=0)
    zero = build.constant(f"k/int32/{len(rows)}", np.array(len(rows), np.int32))
    slots = build.constant(f"{site}/slots", kept.slots) if kept.by_slots else _slots(build, site, kept)
    within = build.constant(f"k/rows/{shape.m2}", np.arange(shape.m2, dtype=np.int32)[:, None])
    spread = build.op("Gather", blocks, build.op("Min", build.op("Add", slots, within), zero), axis=0)
    weight = build.op("Reshape", spread, build.integers(shape.m, shape.n))
    if kept.dims == (shape.m, shape.n):
        return weight
    return build.op("Slice", weight, build.integers(0, 0), build.integers(*kept.dims))


def _slots(build: Builder, site: str, kept: Survivors) -> ir.Value:
    """``slot [m1, 1, n1]`` from the gaps."""
    shape, end = kept.shape, len(kept.blocks) * kept.shape.m2
    gaps = build.constant(f"{site}/gaps", kept.gaps)
    position = build.op("CumSum", build.op("Cast", gaps, to=ir.DataType.INT64), build.integers())
    zeros = build.op("ConstantOfShape", build.integers(shape.blocks), value=ir.tensor(np.array([end], np.int32)))
    firsts = build.op("Range", *(build.constant(f"k/int32/{i}", np.array(i, np.int32)) for i in (0, end, shape.m2)))
    return build.op("Reshape", build.op("ScatterND", zeros, position, firsts), build.integers(shape.m1, 1, shape.n1))


def _as_stored(build: Builder, weight: ir.Value, value: ir.Value, dims: tuple[int, int]) -> ir.Value:
    shape = tuple(value.const_value.shape.numpy()) if value.const_value is not None else dims
    return weight if shape == dims else build.op("Reshape", weight, build.integers(*shape))


def _replace(graph: ir.Graph, value: ir.Value, dense: ir.Value) -> None:
    ir.convenience.replace_all_uses_with(value, dense)
    if value.name:
        del graph.initializers[value.name]
