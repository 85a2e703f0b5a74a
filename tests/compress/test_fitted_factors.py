"""Factors in the metric of the inputs: each step against torch's least squares, the error never rising."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kronfx import kron
from kronfx.compress import factors
from kronfx.compress.factors import fitted_factors
from kronfx.records import KroneckerShape


def problem(shape: KroneckerShape, seed: int, live: float = 1.0) -> tuple[Tensor, Tensor]:
    """A weight, some of its blocks zero, and correlated rows of inputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    blocks = (torch.rand(shape.m1, shape.n1, generator=generator) < live).double()
    W = normal(shape.m, shape.n) * torch.kron(blocks, torch.ones(shape.block, dtype=torch.float64))
    return W, normal(3 * shape.n, shape.n) @ (normal(shape.n, shape.n) * torch.rand(shape.n, generator=generator))


def error(W: Tensor, X: Tensor, S: Tensor, A: Tensor, B: Tensor) -> float:
    return float((X @ (W - kron.materialize(S, A, B)[: W.shape[0], : W.shape[1]]).mT).square().sum())


SHAPES = st.builds(KroneckerShape, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=20)
@given(shape=SHAPES, rank=st.integers(1, 3), seed=st.integers(0, 99), live=st.sampled_from([1.0, 0.6]))
def test_no_sweep_raises_the_error_and_zero_blocks_stay(
    shape: KroneckerShape, rank: int, seed: int, live: float
) -> None:
    rank = min(rank, shape.max_rank)
    torch.manual_seed(seed)
    W, X = problem(shape, seed, live)
    errors = [error(W, X, *fitted_factors(W, X.mT @ X, shape, rank, sweeps)) for sweeps in range(4)]
    scale = float((X @ W.mT).square().sum())
    assert all(after <= before + 1e-7 * scale for before, after in pairwise(errors))
    fitted = kron.materialize(*fitted_factors(W, X.mT @ X, shape, rank))
    if W.any():
        assert not (kron.block_mask(fitted, shape) & ~kron.block_mask(W, shape)).any()


@pytest.mark.parametrize("live", [1.0, 0.6])
def test_a_step_of_either_factor_is_the_least_squares_fit(live: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, rank = KroneckerShape(3, 4, 5, 2), 2
    W, X = problem(shape, 3, live)
    monkeypatch.setattr(factors, "_balanced", lambda A, B: (A, B))
    S, A0, _ = kron.nearest_factors(W, shape, rank)
    _, A, B = fitted_factors(W, X.mT @ X, shape, rank, sweeps=1)
    wanted = (X @ W.mT).flatten()

    def best(columns: list[Tensor]) -> Tensor:
        """Of a linear combination of weights, the coefficients whose outputs come nearest."""
        return torch.linalg.lstsq(torch.stack([(X @ w.mT).flatten() for w in columns], 1), wanted[:, None]).solution[
            :, 0
        ]

    units = torch.eye(rank * 10, dtype=torch.float64).reshape(-1, rank, 5, 2)
    torch.testing.assert_close(
        B.flatten(), best([kron.materialize(S, A0, unit) for unit in units]), rtol=1e-5, atol=1e-6
    )
    units = torch.eye(rank * 12, dtype=torch.float64).reshape(-1, rank, 3, 4)
    units = units[[bool((S * unit).any()) for unit in units]]
    coefficients = best([kron.materialize(S, unit, B) for unit in units])
    torch.testing.assert_close((units * coefficients[:, None, None, None]).sum(0), S * A, rtol=1e-5, atol=1e-6)


def test_at_full_rank_the_weight_comes_back() -> None:
    shape = KroneckerShape(2, 3, 3, 2)
    W, X = problem(shape, 0)
    torch.testing.assert_close(
        kron.materialize(*fitted_factors(W, X.mT @ X, shape, shape.max_rank)), W, rtol=1e-5, atol=1e-5
    )
