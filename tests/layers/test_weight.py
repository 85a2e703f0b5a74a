"""``W`` whose narrow blocks are turned in runs: as ``torch.kron`` has it, in every dtype, with every derivative."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_every_derivative, assert_near, dense, random_factors
from torch import Tensor

from kronfx import kron
from kronfx.layers import weight
from kronfx.layers.factors import Factors
from kronfx.layers.weight import formed_weight

side = st.integers(1, 7) | st.sampled_from((8, 12))
Dims = tuple[int, int, int, int]
CLOSE = {"atol": 1e-10, "rtol": 1e-10}  # sums of a few thousand products of order 1 in float64


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of what was turned in runs."""
    shapes: list[tuple[int, ...]] = []
    moved = weight.moved
    monkeypatch.setattr(weight, "moved", lambda place, source: shapes.append(source.shape) or moved(place, source))
    return shapes


def drawn(dims: Dims, rank: int, seed: int = 0) -> Factors:
    found = random_factors(dims, rank, seed=seed, zeros=0.3)
    return Factors(*(factor.requires_grad_() for factor in (found.S, found.A, found.B)))


@settings(deadline=None)
@given(
    dims=st.tuples(side, side, side, side),
    rank=st.integers(1, 5),
    transposed=st.booleans(),
    upright=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_it_is_torchs_kron_with_its_gradients(
    dims: Dims, rank: int, transposed: bool, upright: bool, seed: int
) -> None:
    """Of factors as they lie, and of turned ones; for a gradient as ``W`` lies, and a turned one."""
    factors = drawn(dims, rank, seed)
    leaves = [factors.S, factors.A, factors.B]
    truth = dense(*leaves).mT if transposed else dense(*leaves)
    factors = factors.transposed if transposed else factors
    W = formed_weight(factors)
    torch.testing.assert_close(W, truth, **CLOSE)
    dW = torch.randn_like(truth) if upright else torch.randn_like(truth.mT).mT
    for ours, theirs in zip(torch.autograd.grad(W, leaves, dW), torch.autograd.grad(truth, leaves, dW)):
        torch.testing.assert_close(ours, theirs, **CLOSE)
    assert torch.equal(kron.block_mask(W.detach(), factors.shape), factors.S != 0)


@pytest.mark.parametrize(
    ("n2", "dtype", "narrow"),
    [
        (1, torch.float64, True),
        (4, torch.float64, True),
        (5, torch.float64, False),
        (8, torch.float32, True),
        (9, torch.float32, False),
        (16, torch.bfloat16, True),
        (17, torch.float16, False),
    ],
)
def test_only_narrow_blocks_are_turned_in_runs(
    n2: int, dtype: torch.dtype, narrow: bool, turned: list[tuple[int, ...]]
) -> None:
    found = random_factors((3, 2, 4, n2), 2)
    factors = Factors(*(factor.to(dtype) for factor in (found.S, found.A, found.B)))
    exact = [factor.double() for factor in (factors.S, factors.A, factors.B)]
    assert_near(formed_weight(factors), dense(*exact), dense(*(factor.abs() for factor in exact)), dtype, 4)
    assert turned == [(3, 4, 2, n2)] * narrow


def test_derivatives_of_every_kind(turned: list[tuple[int, ...]]) -> None:
    """Twice, forward, under transforms."""
    factors = drawn((2, 3, 2, 2), 2)
    primals = (factors.S, factors.A, factors.B)

    def call(*given: Tensor) -> Tensor:
        return formed_weight(Factors(*given))

    W = assert_every_derivative(call, primals)
    stacked = torch.func.vmap(call)(*(torch.stack([primal, 2 * primal]) for primal in primals))
    torch.testing.assert_close(stacked, torch.stack([W, 8 * W]), **CLOSE)
    assert turned


def test_a_stack_and_what_is_beyond_the_features() -> None:
    S, A, B = torch.rand(2, 3, 4), torch.rand(2, 2, 3, 4), torch.rand(2, 2, 5, 3)
    each = [dense(*factors) for factors in zip(S, A, B)]
    torch.testing.assert_close(formed_weight(Factors(S, A, B)), torch.stack(each))
    torch.testing.assert_close(formed_weight(Factors(S[0], A[0], B[0], (13, 10))), each[0][:13, :10])
