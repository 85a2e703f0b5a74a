"""A block-sparse constant as its surviving blocks.

``W [m, n]`` on a grid of ``m1 x n1`` blocks becomes ``blocks [(nnz + 1) m2, n2]``, the rows of all surviving blocks one
below the other and a block of zeros (which nodes add where it would count), and a table of where they belong:

    W[p m2 + q, j n2 : (j + 1) n2] = blocks[slot[p, 0, j] + q]
    slot [m1, 1, n1]: the survivor's first row, or that of the zeros

Where blocks are so small that ``slot`` would count, ``gaps [nnz, 1]`` are stored instead, the distances between
consecutive positions ``p n1 + j`` of the survivors, the first one from 0, in the smallest integer type that holds them:

    slot = ScatterND(nnz m2, CumSum(gaps), first rows)

One Gather writes the whole weight once, which loads fastest: ``kronfx/decisions/storage_by_gather.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import Array, smallest
from kronfx.records import KroneckerShape

SMALL = 0.02  # of the survivors' bytes: the largest table of slots, or block of zeros; all else may take 5%


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
        return 4 * self.shape.blocks <= SMALL * self.blocks.nbytes

    @property
    def with_zeros(self) -> bool:
        """True where a block of zeros is small beside the survivors: then it is stored, which spares copying them."""
        return self._block <= SMALL * self.blocks.nbytes

    @property
    def _block(self) -> int:
        return int(self.shape.m2 * self.shape.n2 * self.blocks.itemsize)

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        table = 4 * self.shape.blocks if self.by_slots else self.gaps.nbytes
        return int(self.blocks.nbytes + (self._block if self.with_zeros else 0) + table)

    @property
    def T(self) -> Survivors:
        """Those of ``W^T``."""
        shape = self.shape.T
        W = np.zeros((self.shape.m1, self.shape.n1, *self.shape.block), self.blocks.dtype)
        W[self.mask] = self.blocks
        transposed = W.transpose(1, 3, 0, 2).reshape(shape.m, shape.n)
        return survivors(transposed[: self.dims[1], : self.dims[0]], shape)

    def rebuilt(self, build: Builder, site: str) -> ir.Value:
        """``W [m, n]``, by nodes."""
        shape = self.shape
        rows = self.blocks.reshape(-1, shape.n2)
        nothing = np.zeros_like(rows, shape=(shape.m2, shape.n2))
        if self.with_zeros:
            blocks = build.constant(f"{site}/blocks", np.concatenate([rows, nothing]))
        else:
            zero = build.constant(f"k/zero/{rows.dtype}", nothing[:1, :1])
            zeros = build.op("Expand", zero, build.integers(*shape.block))
            blocks = build.op("Concat", build.constant(f"{site}/blocks", rows), zeros, axis=0)
        slots = build.constant(f"{site}/slots", self.slots) if self.by_slots else self._slots_by_gaps(build, site)
        within = build.constant(f"k/rows/{shape.m2}", np.arange(shape.m2, dtype=np.int32)[:, None])
        spread = build.op("Gather", blocks, build.op("Add", slots, within), axis=0)
        return build.matrix(spread, shape, self.dims)

    def _slots_by_gaps(self, build: Builder, site: str) -> ir.Value:
        shape, end = self.shape, len(self.blocks) * self.shape.m2
        gaps = build.constant(f"{site}/gaps", self.gaps)
        position = build.op("CumSum", build.op("Cast", gaps, to=ir.DataType.INT64), build.integers())
        zeros = build.op("ConstantOfShape", build.integers(shape.blocks), value=ir.tensor(np.array([end], np.int32)))
        firsts = build.op("Range", *(build.constant(f"k/int32/{i}", np.array(i, np.int32)) for i in (0, end, shape.m2)))
        slots = build.op("ScatterND", zeros, position, firsts)
        return build.op("Reshape", slots, build.integers(shape.m1, 1, shape.n1))


def storage(alive: Survivors, _: object) -> Survivors:
    """The surviving blocks are a way to store any weight."""
    return alive


def survivors(W: Array, shape: KroneckerShape) -> Survivors:
    """The blocks of ``W [m, n]`` with a non-zero entry, in row-major order of the grid."""
    dims = W.shape[0], W.shape[1]
    if dims != (shape.m, shape.n):
        W = np.pad(W, ((0, shape.m - dims[0]), (0, shape.n - dims[1])))
    grid = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2).transpose(0, 2, 1, 3)
    mask = (grid != 0).any(axis=(2, 3))
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=0)
    blocks = grid.reshape(-1, *shape.block) if mask.all() else grid[mask]
    kind = smallest(int(gaps.max(initial=0)))
    return Survivors(shape, mask, blocks, gaps.astype(kind)[:, None], dims)
