"""The block grid that nobody told: planted grids come back, chance zeros mislead nobody."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import planted

from kronfx.deploy.find.grid import LARGEST, PRICE, grid_of
from kronfx.deploy.options import SparsifyOptions
from kronfx.errors import ExportError
from kronfx.records import KroneckerShape


def price(W: np.ndarray, block: tuple[int, int]) -> int:
    """``surviving blocks * (m2 n2 + PRICE)``, counted block by block."""
    (m, n), (m2, n2) = W.shape, block
    alive = [W[p : p + m2, j : j + n2].any() for p in range(0, m, m2) for j in range(0, n, n2)]
    return sum(alive) * (m2 * n2 + PRICE)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize(
    "block", [(8, 8), (16, 16), (32, 32), (64, 64), (4, 16), (32, 8), (1, 64), (128, 128), (11, 7)]
)
@pytest.mark.parametrize("zero", [0.3, 0.75, 0.9])
def test_planted_grids_come_back(block: tuple[int, int], zero: float, dtype: Any) -> None:
    W = planted(16 * block[0], 24 * block[1], block, zero, dtype=dtype)
    assert grid_of(W) == KroneckerShape(16, 24, *block)
    assert grid_of(np.asfortranarray(W)) == KroneckerShape(16, 24, *block)  # a turned constant is a view


@pytest.mark.parametrize("zero", [0.5, 0.75, 0.95])
def test_the_smallest_square_blocks_come_back(zero: float) -> None:
    assert grid_of(planted(64, 96, (4, 4), zero)) == KroneckerShape(16, 24, 4, 4)


@pytest.mark.parametrize("block", [(8, 8), (16, 32), (32, 32)])
def test_8_bit_weights_have_zeros_by_chance(block: tuple[int, int]) -> None:
    W = np.round(40 * planted(512, 512, block, 0.8) * 512**0.5).astype(np.int8)
    inside = W.reshape(512 // block[0], block[0], 512 // block[1], block[1])
    alive = inside.any(axis=(1, 3), keepdims=True)
    assert 0.005 < (inside == 0)[np.broadcast_to(alive, inside.shape)].mean() < 0.05  # zeros inside surviving blocks
    assert grid_of(W).block == block


def test_scattered_zeros_are_no_grid() -> None:
    rng = np.random.default_rng(0)
    W = rng.standard_normal((96, 128)) * (rng.random((96, 128)) > 0.3)
    assert grid_of(W) == KroneckerShape(1, 1, 96, 128)
    assert grid_of(rng.standard_normal((96, 128))) == KroneckerShape(1, 1, 96, 128)


def test_a_zero_weight_is_as_few_blocks_as_there_can_be() -> None:
    assert grid_of(np.zeros((96, 256))) == KroneckerShape(1, 2, 96, 128)
    assert grid_of(np.zeros((97, 509))) == KroneckerShape(1, 509, 97, 1)  # 509 is prime and beyond the largest side


def test_single_rows_and_columns() -> None:
    W = np.ones((64, 96))
    W[10:30] = 0
    assert grid_of(W).block == (2, 96)
    assert grid_of(W.T).block == (96, 2)


@given(st.integers(1, 48), st.integers(1, 48), st.floats(0, 1), st.integers(0, 5))
def test_no_grid_is_cheaper(m: int, n: int, zero: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sides = [[side for side in range(1, size + 1) if size % side == 0] for size in (m, n)]
    block = (int(rng.choice(sides[0])), int(rng.choice(sides[1])))
    W = planted(m, n, block, zero, seed)
    found = grid_of(W)
    assert (found.m, found.n) == (m, n)
    least = min(price(W, (m2, n2)) for m2 in sides[0] for n2 in sides[1])
    assert price(W, found.block) == least
    coarser = [(m2, n2) for m2 in sides[0] for n2 in sides[1] if price(W, (m2, n2)) == least]
    assert found.blocks == min(m * n // (m2 * n2) for m2, n2 in coarser)


def test_what_the_caller_says_counts_where_it_fits() -> None:
    W = planted(96, 64, (32, 32), 0.5)
    assert grid_of(W, (8, 16)) == KroneckerShape(12, 4, 8, 16)
    assert grid_of(W, (96, 64)) == KroneckerShape(1, 1, 96, 64)
    assert grid_of(W, (7, 16)) == grid_of(W, (8, 60)) == KroneckerShape(1, 1, 96, 64)


@pytest.mark.parametrize("block", [None, (32, 32), [4, 8]])
def test_blocks_that_can_be(block: Any) -> None:
    assert SparsifyOptions(block=block).block == (None if block is None else tuple(block))


@pytest.mark.parametrize("block", [3, "32", (3,), (0, 1), (-8, 8), (8.0, 8), (1, 2, 3), (), {8, 9}, (True, True)])
def test_blocks_that_cannot_be(block: Any) -> None:
    with pytest.raises(ExportError, match="two positive integers"):
        SparsifyOptions(block=block)


def cheapest(W: np.ndarray) -> tuple[int, int]:
    """The least price of all grids, counted block by block, against that of one block; the coarsest of equals."""
    m, n = W.shape
    sides = [[side for side in range(1, min(size, LARGEST) + 1) if size % side == 0] for size in (m, n)]
    prices = {(m2, n2): price(W, (m2, n2)) for m2 in sides[0] for n2 in sides[1]}
    best = min(prices, key=lambda block: (prices[block], -block[0] * block[1], -block[0]))
    return best if prices[best] < m * n + PRICE else (m, n)


@given(st.data())
def test_the_search_leaves_nothing_out(data: st.DataObject) -> None:
    m, n = data.draw(st.integers(1, 60)), data.draw(st.sampled_from([1, 2, 7, 12, 32, 36, 48, 60, 64]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    W = rng.standard_normal((m, n))
    for _ in range(data.draw(st.integers(0, 2))):  # grids within grids
        block = data.draw(st.sampled_from([(a, b) for a in range(1, m + 1) for b in (1, 2, n) if not (m % a or n % b)]))
        mask = rng.random((m // block[0], n // block[1])) < data.draw(st.sampled_from([0.05, 0.3, 0.9]))
        W *= np.kron(mask, np.ones(block))
    W[rng.random(W.shape) < data.draw(st.sampled_from([0, 0, 0.001, 0.02, 0.5]))] = 0
    W = data.draw(st.sampled_from([W, np.asfortranarray(W), np.ascontiguousarray(W.T).T, np.repeat(W, 2, 0)[::2]]))
    assert grid_of(W).block == cheapest(W)


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_one_zero_among_millions_is_found_to_be_none_at_once(dtype: Any) -> None:
    W = np.ones((4096, 4096), dtype)
    W[5, 7] = 0
    started = time.perf_counter()
    assert grid_of(W) == grid_of(W.T) == KroneckerShape(1, 1, 4096, 4096)
    assert time.perf_counter() - started < 2  # 0.05 s; a search of all 64 grids took 8


@pytest.mark.parametrize("block", [(32, 32), (4, 4), (1, 64), (64, 1)])
def test_a_large_weight_is_searched_quickly(block: tuple[int, int]) -> None:
    W = planted(2048, 2048, block, 0.9)
    started = time.perf_counter()
    assert grid_of(W).block == grid_of(W.T).block[::-1] == block
    assert time.perf_counter() - started < 2
