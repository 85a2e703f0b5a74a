"""What is left of a map, against torch's least squares."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from kronfx.compress.refit import damped, masked, refitted
from kronfx.records import KroneckerShape


@given(m=st.integers(1, 9), n=st.integers(1, 10), m2=st.integers(1, 4), n2=st.integers(1, 4), seed=st.integers(0, 99))
def test_survivors_are_the_least_squares_fit(m: int, n: int, m2: int, n2: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    grid = KroneckerShape(-(-m // m2), -(-n // n2), m2, n2)
    W = torch.randn(m, n, generator=generator, dtype=torch.float64)
    X = torch.randn(5 * n, n, generator=generator, dtype=torch.float64)
    kept = torch.rand(grid.m1, grid.n1, generator=generator) < 0.5
    H = X.mT @ X
    fitted = refitted(W @ H, H, kept, grid)
    mask = masked(torch.ones_like(W), kept, grid)
    for row in range(m):
        columns = mask[row].nonzero()[:, 0]
        wanted = torch.zeros(n, dtype=torch.float64)
        wanted[columns] = torch.linalg.lstsq(X[:, columns], X @ W[row, :, None]).solution[:, 0]
        torch.testing.assert_close(fitted[row], wanted, rtol=1e-8, atol=1e-9)
    assert torch.equal(fitted[mask == 0], torch.zeros_like(fitted[mask == 0]))


def test_all_blocks_kept_give_the_weight_back() -> None:
    W, X = torch.randn(6, 8, dtype=torch.float64), torch.randn(3, 8, dtype=torch.float64)
    H = damped(X.mT @ X, 0.01)  # singular without
    torch.testing.assert_close(refitted(W @ H, H, torch.ones(2, 2, dtype=torch.bool), KroneckerShape(2, 2, 3, 4)), W)


def test_inputs_that_never_vary_are_damped_to_the_identity() -> None:
    assert torch.equal(damped(torch.zeros(3, 3), 0.01), torch.eye(3))
