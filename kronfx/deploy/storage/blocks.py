"""A block-sparse constant as its surviving blocks.

``W [m, n]`` on a grid of ``m1 x n1`` blocks becomes ``blocks [(nnz + 1) m2, n2]``, the rows of all surviving blocks one
below the other and a block of zeros (which nodes add where it would count), and a table of where they belong:

    W[p m2 + q, j n2 : (j + 1) n2] = blocks[slot[p, 0, j] + q]
    slot [m1, 1, n1]: the survivor's first row, or that of the zeros

Where blocks are so small that ``slot`` would count, ``gaps [nnz, 1]`` are stored instead, the distances between
consecutive positions ``p n1 + j`` of the survivors, the first one from 0, in the smallest integer type that holds them:

    slot = ScatterND(nnz m2, CumSum(gaps), first rows)

A block need not be zero to go without: an unsigned 8-bit weight has its zero point for a ``ground``, one number or one
a row or column, and what is stored once is a block of that; where it differs from row to row, one a row (or column) of
blocks.

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
    they are. All others hold the ``ground [m, 1]``, ``[1, n]`` or ``[1, 1]``."""

    shape: KroneckerShape
    mask: Array
    blocks: Array
    gaps: Array
    dims: tuple[int, int]  # (m, n), less than one block short of the grid where that is padded
    ground: Array

    @property
    def zero_blocks(self) -> int:
        """Blocks that are not stored."""
        return self.shape.blocks - len(self.blocks)

    @property
    def slots(self) -> Array:
        """``slot [m1, 1, n1]``: where each block's rows begin."""
        m2, behind = self.shape.m2, len(self.blocks) + np.arange(self._grounds, dtype=np.int32)
        slots: Array = np.broadcast_to(
            m2 * (behind[:, None] if len(self.ground) > 1 else behind), self.mask.shape
        ).copy()
        slots[self.mask] = np.arange(len(self.blocks)) * m2
        return slots[:, None]

    @property
    def is_plain(self) -> bool:
        """True where one number is what all blocks hold that are not stored."""
        return self.ground.size == 1

    @property
    def by_slots(self) -> bool:
        """True where a table of all blocks is small beside the survivors."""
        return not self.is_plain or 4 * self.shape.blocks <= SMALL * self.blocks.nbytes

    @property
    def with_ground(self) -> bool:
        """True where a block of the ground is small beside the survivors: it is stored, which spares copying it."""
        return not self.is_plain or self._block <= SMALL * self.blocks.nbytes

    @property
    def _block(self) -> int:
        return int(self.shape.m2 * self.shape.n2 * self.blocks.itemsize)

    @property
    def _grounds(self) -> int:
        """How many different blocks of the ground there are."""
        rows, columns = self.ground.shape
        return self.shape.m1 if rows > 1 else self.shape.n1 if columns > 1 else 1

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        table = 4 * self.shape.blocks if self.by_slots else self.gaps.nbytes
        return int(self.blocks.nbytes + (self._grounds * self._block if self.with_ground else 0) + table)

    @property
    def T(self) -> Survivors:
        """Those of ``W^T``."""
        shape = self.shape
        W = np.broadcast_to(_tiles(self.ground, shape), (shape.m1, shape.n1, *shape.block)).copy()
        W[self.mask] = self.blocks
        transposed = W.transpose(1, 3, 0, 2).reshape(shape.n, shape.m)
        m, n = self.dims
        return survivors(transposed[:n, :m], shape.T, self.ground[:m, :n].T)

    def rows(self, build: Builder, site: str) -> ir.Value:
        """The rows of all blocks one below the other, those of the ground last, by nodes."""
        shape = self.shape
        rows = self.blocks.reshape(-1, shape.n2)
        if self.with_ground:
            ground = np.broadcast_to(_tiles(self.ground, shape), (self.shape.m1, self.shape.n1, *shape.block))
            once = ground[: self._grounds, 0] if len(self.ground) > 1 else ground[0, : self._grounds]
            return build.constant(f"{site}/blocks", np.concatenate([rows, once.reshape(-1, shape.n2)]))
        number = self.ground.reshape(1, 1)
        one = build.constant(f"k/{'zero' if not number.any() else number.item()}/{rows.dtype}", number)
        expanded = build.op("Expand", one, build.integers(*shape.block))
        return build.op("Concat", build.constant(f"{site}/blocks", rows), expanded, axis=0)

    def rebuilt(self, build: Builder, site: str) -> ir.Value:
        """``W [m, n]``, by nodes."""
        shape, blocks = self.shape, self.rows(build, site)
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


def survivors(W: Array, shape: KroneckerShape, ground: Array | None = None) -> Survivors:
    """The blocks of ``W [m, n]`` with an entry other than the ``ground`` (zero), in row-major order of the grid."""
    dims = W.shape[0], W.shape[1]
    if ground is None:
        ground = np.zeros_like(W, shape=(1, 1))
    alive: Array = np.asarray(np.not_equal(W, ground))
    if dims != (shape.m, shape.n):
        beyond = ((0, shape.m - dims[0]), (0, shape.n - dims[1]))
        along = [extra if side > 1 else (0, 0) for extra, side in zip(beyond, ground.shape, strict=True)]
        W, alive, ground = np.pad(W, beyond), np.pad(alive, beyond), np.pad(ground, along)
    mask: Array = np.any(_grid(alive, shape), axis=(2, 3))
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=0)
    grid = _grid(W, shape)
    blocks = grid.reshape(-1, *shape.block) if mask.all() else grid[mask]
    kind = smallest(int(gaps.max(initial=0)))
    return Survivors(shape, mask, blocks, gaps.astype(kind)[:, None], dims, ground)


def _grid(W: Array, shape: KroneckerShape) -> Array:
    """``[m1, n1, m2, n2]`` of ``[m, n]``."""
    grid: Array = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2).transpose(0, 2, 1, 3)
    return grid


def _tiles(ground: Array, shape: KroneckerShape) -> Array:
    """The ground in blocks, of one block where it is the same in all: ``[m1 or 1, n1 or 1, m2 or 1, n2 or 1]``."""
    rows, columns = ground.shape
    m1, m2 = (shape.m1, shape.m2) if rows > 1 else (1, 1)
    n1, n2 = (shape.n1, shape.n2) if columns > 1 else (1, 1)
    tiles: Array = ground.reshape(m1, m2, n1, n2).transpose(0, 2, 1, 3)
    return tiles
