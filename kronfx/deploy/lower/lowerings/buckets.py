"""Rows of blocks, sorted by how many survive and cut into buckets that one batched product each can take."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kronfx.deploy.nodes.values import Array
from kronfx.records import KroneckerShape

PADDING = 1 / 32  # of the surviving blocks: at most this much zero is stored to make the rows of buckets equally long


@dataclass(frozen=True, slots=True)
class Bucket:
    """``weights [R, m2, K n2]`` of ``R`` block rows with ``K`` blocks each, and the ``columns [R, K]`` they read."""

    rows: tuple[int, ...]
    columns: Array
    weights: Array


def pack(W: Array, mask: Array, shape: KroneckerShape) -> list[Bucket]:
    """The buckets of ``W [m, n]`` with surviving blocks ``mask [m1, n1]``; rows without a block are in none.

    Rows are sorted by their number of blocks; where to cut is the shortest path over the sorted rows. A bucket costs
    its padded blocks and, for its three nodes, 1/128 of all surviving blocks (at least one).
    """
    counts = mask.sum(axis=1)
    rows = [int(row) for row in np.argsort(counts, kind="stable") if counts[row]]
    if not rows:
        return []
    return [_bucket(W, mask, shape, rows[start:end]) for start, end in pairwise(_cuts(counts[rows]))]


def _cuts(counts: Array) -> list[int]:
    total = int(counts.sum())
    overhead = max(1.0, total / 128)
    while True:
        cuts = _shortest(counts, overhead)
        padded = sum((end - start) * int(counts[end - 1]) for start, end in pairwise(cuts)) - total
        if padded <= PADDING * total or overhead < 1 / 2:
            return cuts
        overhead /= 2


def _shortest(counts: Array, overhead: float) -> list[int]:
    """Cuts ``0 < ... < len(counts)`` with the least padded blocks plus ``overhead`` a bucket; counts ascend."""
    ends = [0, *(int(end) for end in np.flatnonzero(np.diff(counts)) + 1), len(counts)]  # equal rows stay together
    best: list[tuple[float, int]] = [(0.0, 0)]
    for i, end in enumerate(ends[1:], 1):
        best.append(min((best[j][0] + (end - ends[j]) * int(counts[end - 1]) + overhead, j) for j in range(i)))
    path = [len(ends) - 1]
    while path[-1]:
        path.append(best[path[-1]][1])
    return [ends[i] for i in reversed(path)]


def _bucket(W: Array, mask: Array, shape: KroneckerShape, rows: list[int]) -> Bucket:
    longest = max(int(mask[row].sum()) for row in rows)
    grid = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2)
    weights = np.zeros((len(rows), shape.m2, longest, shape.n2), W.dtype)
    columns = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        alive = np.flatnonzero(mask[row])
        weights[i, :, : len(alive)] = grid[row][:, alive]
        columns[i, : len(alive)] = alive
        columns[i, len(alive) :] = alive[-1]  # multiplied by zero: any column does, one that is read anyway is near
    return Bucket(tuple(rows), columns, weights.reshape(len(rows), shape.m2, longest * shape.n2))
