"""Surviving blocks that are stored once for several forms of one weight: whole, transposed, in buckets.

A tied embedding is read by a Gather, whole, and multiplied with by the head, in buckets of blocks; an autoencoder may
multiply by ``W`` and by ``W^T``. The file holds the blocks of one form, and nodes that a runtime folds when it loads
the file make all others of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import Array
from kronfx.deploy.storage.blocks import Survivors


@dataclass(frozen=True, slots=True)
class Shared:
    """The blocks ``alive`` that a file keeps of a weight, named after its ``site``: those of ``W``, or of ``W^T`` where
    they are ``transposed``."""

    site: str
    alive: Survivors
    transposed: bool

    def rows(self, build: Builder, rows: Sequence[int], depth: int) -> ir.Value:
        """``[R, m2, K n2]`` of these rows of blocks of ``W``: a row's ``K = depth`` first survivors, zeros behind its
        last one; a row below 0 is zero."""
        mask = self.alive.mask.T if self.transposed else self.alive.mask
        count = len(self.alive.blocks)
        slots = np.full(self.alive.mask.shape, count)
        slots[self.alive.mask] = np.arange(count)
        if self.transposed:
            slots = slots.T
        taken: Array = np.full((len(rows), depth), count)
        for i, row in enumerate(rows):
            own = slots[row][mask[row]] if row >= 0 else ()
            taken[i, : len(own)] = own
        shape = self.alive.shape
        tiles = build.op("Reshape", self.alive.rows(build, self.site), build.integers(-1, *shape.block))
        places = build.indices(f"{self.site}/places", taken, self.alive.blocks.nbytes)
        gathered = build.op("Gather", tiles, places, axis=0)
        m2, n2 = shape.block[::-1] if self.transposed else shape.block
        lying = build.op("Transpose", gathered, perm=[0, 3, 1, 2] if self.transposed else [0, 2, 1, 3])
        return build.op("Reshape", lying, build.integers(len(rows), m2, depth * n2))
