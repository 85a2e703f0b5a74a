"""The path of a block row, against brute force: every set of survivors fitted by least squares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kronfx.compress import path as paths
from kronfx.compress.criteria import CRITERIA, How, Known
from kronfx.compress.path import surgeon_path, weighed
from kronfx.compress.refit import damped
from kronfx.records import KroneckerShape


@pytest.fixture(autouse=True, scope="module")
def in_float64() -> Iterator[None]:
    """What is compared with least squares is computed as precisely."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paths, "TOLERANCE", 0.0)
        yield


def grid_of(m: int, n: int, m2: int, n2: int) -> KroneckerShape:
    return KroneckerShape(-(-m // m2), -(-n // n2), m2, n2)


def problem(m: int, n: int, m2: int, n2: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, KroneckerShape]:
    """A weight, correlated rows of inputs, the output gradients' moments, a grid."""
    generator, grid = torch.Generator().manual_seed(seed), grid_of(m, n, m2, n2)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    roots = normal(grid.m1, m2, m2)
    return normal(m, n), normal(4 * n + 8, n) @ normal(n, n), roots @ roots.mT, grid


def least_error(W: Tensor, X: Tensor, columns: list[int], weights: Tensor) -> float:
    """``min tr(D^T G D)`` of the outputs' differences ``D`` where only these columns of a block row are not zero."""
    wanted = X @ W.mT
    fitted = (
        X[:, columns] @ torch.linalg.lstsq(X[:, columns], wanted, driver="gelsd").solution if columns else 0 * wanted
    )
    difference = wanted - fitted
    return float((difference @ weights * difference).sum() / len(X))


def columns_of(blocks: list[int], n2: int, n: int) -> list[int]:
    return [k for j in blocks for k in range(j * n2, min((j + 1) * n2, n))]


SIZES = st.tuples(st.integers(1, 7), st.integers(2, 9), st.integers(1, 4), st.integers(1, 3))


@given(sizes=SIZES, seed=st.integers(0, 99))
def test_every_step_is_the_best_single_block_and_costs_what_it_adds(
    sizes: tuple[int, int, int, int], seed: int
) -> None:
    m, n, m2, n2 = sizes
    W, X, G, grid = problem(m, n, m2, n2, seed)
    path = surgeon_path(weighed(W, G, grid), X.mT @ X / len(X), grid)
    for p in range(grid.m1):
        rows = W[p * m2 : (p + 1) * m2]
        weights = G[p, : len(rows), : len(rows)]
        left, before, whole = list(range(grid.n1)), 0.0, least_error(rows, X, [], weights)
        for j, cost in zip(path.order[p].tolist(), path.costs[p].tolist()):
            trials = {k: least_error(rows, X, columns_of([i for i in left if i != k], n2, n), weights) for k in left}
            best = min(trials.values())
            assert trials[j] == pytest.approx(best, rel=1e-6, abs=1e-8 * whole)
            assert cost == pytest.approx(trials[j] - before, rel=1e-5, abs=1e-7 * whole)
            left.remove(j)
            before = trials[j]


@pytest.mark.parametrize("at_once", [1, 3])
def test_rows_are_walked_together_or_in_portions(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    W, X, _, grid = problem(28, 40, 4, 4)
    path = surgeon_path(W, X.mT @ X, grid)
    monkeypatch.setattr(paths, "MEMORY", at_once * 8 * grid.n**2)
    other = surgeon_path(W, X.mT @ X, grid)
    assert torch.equal(path.order, other.order)
    torch.testing.assert_close(path.costs, other.costs, rtol=1e-9, atol=0)


@given(sizes=SIZES, seed=st.integers(0, 99))
def test_in_float32_where_that_does(sizes: tuple[int, int, int, int], seed: int) -> None:
    m, n, m2, n2 = sizes
    W, X, _, grid = problem(m, n, m2, n2, seed)
    H = damped(X.mT @ X, 0.01)
    precise = surgeon_path(W, H, grid)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paths, "TOLERANCE", 1e-3)
        rounded = surgeon_path(W, H, grid)
    torch.testing.assert_close(rounded.costs, precise.costs, rtol=1e-3, atol=1e-4 * float(precise.costs.max()))
    assert rounded.costs.dtype == torch.float64


def test_inputs_that_float32_cannot_tell_apart_are_walked_in_float64() -> None:
    """Two blocks that are the same but for a hundred thousandth: one of them goes for nearly nothing."""
    generator = torch.Generator().manual_seed(0)
    x, rest = (torch.randn(64, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    X = torch.cat([x, x + 1e-5 * torch.randn(64, 2, generator=generator, dtype=torch.float64), rest], 1)
    W, grid = torch.ones(2, 6, dtype=torch.float64), grid_of(2, 6, 2, 2)
    precise = surgeon_path(W, X.mT @ X, grid)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(paths, "TOLERANCE", 1e-3)
        assert torch.equal(surgeon_path(W, X.mT @ X, grid).costs, precise.costs)


@pytest.mark.parametrize("how", ["fisher", "wanda", "magnitude"])
def test_the_static_criteria_block_by_block(how: How) -> None:
    W, X, G, grid = problem(7, 11, 3, 2)
    H = X.mT @ X / len(X)
    path = CRITERIA[how].path(Known(W, H, G, grid))
    for p in range(grid.m1):
        costs = []
        for j in range(grid.n1):
            rows, columns = slice(3 * p, 3 * p + 3), slice(2 * j, 2 * j + 2)
            block = W[rows, columns]
            weights, inputs = G[p, : len(block), : len(block)], H[columns, columns]
            costs.append(
                {
                    "fisher": torch.trace(block @ inputs @ block.mT @ weights),
                    "wanda": (block.square() * inputs.diagonal()).sum(),
                    "magnitude": block.square().sum(),
                }[how]
            )
        wanted = torch.stack(costs)
        assert path.order[p].tolist() == wanted.argsort().tolist()
        torch.testing.assert_close(path.costs[p], wanted.sort().values)


def test_the_surgeon_by_energy_costs_shares_of_it() -> None:
    W, X, G, grid = problem(6, 12, 3, 3)
    H = X.mT @ X / len(X)
    costs = CRITERIA["energy"].path(Known(W, H, G, grid)).costs
    assert float(costs.sum()) == pytest.approx(1.0)  # in the end all of it is gone
