"""Buckets: every surviving row of blocks in exactly one, hardly anything padded, and ``W`` comes back from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronfx.deploy.lower.layouts import ZERO
from kronfx.deploy.lower.lowerings.buckets import PADDING, Bucket, pack
from kronfx.deploy.lower.lowerings.operands import with_zero_rows
from kronfx.records import KroneckerShape

sides = st.integers(1, 3)
counted = st.integers(1, 12).flatmap(
    lambda n1: st.tuples(st.just(n1), st.lists(st.integers(0, n1), min_size=1, max_size=40))
)


def planted(n1: int, counts: list[int], block: tuple[int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``W [m, n]`` and its mask: ``counts[p]`` random blocks in block row ``p``, nothing in them exactly zero."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((len(counts), n1), bool)
    for row, count in zip(mask, counts, strict=True):
        row[rng.permutation(n1)[:count]] = True
    full = np.kron(mask, np.ones(block))
    return (rng.uniform(1, 2, full.shape) * full).astype(np.float32), mask


def rebuilt(buckets: list[Bucket], shape: KroneckerShape) -> np.ndarray:
    """``W`` as a product with its buckets would see it: blocks in the same place add up."""
    grid = np.zeros((shape.m1, shape.m2, shape.n1, shape.n2), np.float32)
    for bucket in buckets:
        count, depth = bucket.columns.shape
        weights = bucket.weights.reshape(count, shape.m2, depth, shape.n2)
        for i, row in enumerate(bucket.rows):
            if row == ZERO:
                assert not weights[i].any()
                continue
            for k, column in enumerate(bucket.columns[i]):
                grid[row][:, column] += weights[i, :, k]
    return grid.reshape(shape.m, shape.n)


@given(counted, sides, sides)
def test_buckets_are_a_partition_that_rebuilds_the_weight(rows: tuple[int, list[int]], m2: int, n2: int) -> None:
    n1, counts = rows
    W, mask = planted(n1, counts, (m2, n2))
    shape = KroneckerShape(len(counts), n1, m2, n2)
    buckets = pack(W, mask, shape)
    assert sorted(row for bucket in buckets for row in bucket.rows) == np.flatnonzero(counts).tolist()
    np.testing.assert_array_equal(rebuilt(buckets, shape), W)

    total, stored = sum(counts), sum(bucket.columns.size for bucket in buckets)
    assert total <= stored <= total * (1 + PADDING)
    assert sum(bucket.weights.size for bucket in buckets) == stored * m2 * n2
    for bucket in buckets:
        assert bucket.weights.shape == (len(bucket.rows), m2, bucket.columns.shape[1] * n2)
        assert all(set(columns) <= set(np.flatnonzero(mask[row])) for row, columns in zip(bucket.rows, bucket.columns))


@given(counted, sides)
def test_rows_without_a_block_are_computed_once_or_as_a_few_more(rows: tuple[int, list[int]], m2: int) -> None:
    n1, counts = rows
    W, mask = planted(n1, counts, (m2, 1))
    shape = KroneckerShape(len(counts), n1, m2, 1)
    buckets = with_zero_rows(pack(W, mask, shape), mask, W, shape)
    np.testing.assert_array_equal(rebuilt(buckets, shape), W)
    order = [row for bucket in buckets for row in bucket.rows]
    empty = counts.count(0)
    assert sorted(row for row in order if row != ZERO and counts[row]) == np.flatnonzero(counts).tolist()
    if ZERO in order:
        assert order.count(ZERO) == 1
        assert not [row for row in order if row != ZERO and not counts[row]]
    else:
        assert sorted(order) == list(range(len(counts)))
    assert (ZERO in order) <= (empty > 0)


def test_rows_of_one_length_are_one_bucket() -> None:
    W, mask = planted(16, [5] * 64, (2, 2))
    (bucket,) = pack(W, mask, KroneckerShape(64, 16, 2, 2))
    assert bucket.weights.shape == (64, 2, 5 * 2)


def test_nearly_equal_rows_share_a_bucket_and_others_do_not() -> None:
    """What a bucket's nodes cost is worth a little padding; what a long row would pad is not."""
    counts = [20] * 60 + [21] * 4 + [60] * 4
    W, mask = planted(64, counts, (1, 1))
    lengths = [bucket.columns.shape for bucket in pack(W, mask, KroneckerShape(len(counts), 64, 1, 1))]
    assert lengths == [(60, 20), (4, 21), (4, 60)] or lengths == [(64, 21), (4, 60)]
    assert sum(rows * length for rows, length in lengths) <= sum(counts) * (1 + PADDING)


@pytest.mark.parametrize("counts", [[0, 0, 0], [0], [4, 0]])
def test_no_survivor_is_no_bucket(counts: list[int]) -> None:
    W, mask = planted(4, counts, (2, 3))
    assert len(pack(W, mask, KroneckerShape(len(counts), 4, 2, 3))) == bool(sum(counts))
