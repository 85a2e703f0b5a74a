"""The algebra against ``torch.kron``, numpy's SVD and autograd through both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import (
    DTYPES,
    RandomFactors,
    assert_near,
    dense,
    random_factors,
    random_input,
    rearrangement,
)
from torch import Tensor

from kronfx import kron
from kronfx.records import KroneckerShape

Dims = tuple[int, int, int, int]
Evaluate = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

EVALUATE: dict[str, Evaluate] = {
    "a_first": lambda x, S, A, B: kron.a_first(x, S, A, B, kron.shape_of(A, B), A.shape[0]),
    "b_first": lambda x, S, A, B: kron.b_first(x, S, A, B, kron.shape_of(A, B), A.shape[0]),
    "materialize": kron.materialized,
}
evaluations = pytest.mark.parametrize("evaluate", EVALUATE.values(), ids=EVALUATE.keys())

SIZES = st.integers(1, 9) | st.sampled_from((11, 13, 17))  # odd and prime ones among them
DIMS = st.tuples(SIZES, SIZES, SIZES, SIZES)
RANKS = st.integers(1, 5)
LEADING = st.sampled_from(((), (1,), (3,), (0,), (2, 3), (1, 2, 2), (2, 0, 3)))
SEEDS = st.integers(0, 2**32 - 1)

property_test = settings(max_examples=150, deadline=None)


def _terms(dims: Dims, rank: int) -> int:
    """Products summed along the longest chain of any evaluation: over ``n1``, ``n2`` and ``i``, or over ``n``."""
    _, n1, _, n2 = dims
    return rank * n1 * n2


def _magnitude(factors: RandomFactors) -> Tensor:
    """``|W|`` if nothing cancelled."""
    return dense(factors.S.abs(), factors.A.abs(), factors.B.abs())


@evaluations
@property_test
@given(dims=DIMS, rank=RANKS, dtype=st.sampled_from(DTYPES), leading=LEADING, seed=SEEDS)
def test_evaluations_equal_the_kronecker_oracle(
    evaluate: Evaluate, dims: Dims, rank: int, dtype: torch.dtype, leading: tuple[int, ...], seed: int
) -> None:
    factors = random_factors(dims, rank, dtype, seed)
    exact = factors.exact()
    x = random_input(leading, dims[1] * dims[3], dtype, seed)
    y = evaluate(x, factors.S, factors.A, factors.B)
    wanted = x.double() @ dense(exact.S, exact.A, exact.B).T
    assert_near(y, wanted, x.double().abs() @ _magnitude(exact).T, dtype, _terms(dims, rank))


@property_test
@given(dims=DIMS, rank=RANKS, dtype=st.sampled_from(DTYPES), seed=SEEDS)
def test_materialize_equals_the_kronecker_oracle(dims: Dims, rank: int, dtype: torch.dtype, seed: int) -> None:
    factors = random_factors(dims, rank, dtype, seed)
    exact = factors.exact()
    W = kron.materialize(factors.S, factors.A, factors.B)
    assert_near(W, dense(exact.S, exact.A, exact.B), _magnitude(exact), dtype, rank)


@property_test
@given(dims=DIMS, rank=RANKS, dtype=st.sampled_from(DTYPES), seed=SEEDS)
def test_blocks_vanish_exactly_where_s_does(dims: Dims, rank: int, dtype: torch.dtype, seed: int) -> None:
    factors = random_factors(dims, rank, dtype, seed, zeros=0.5)
    W = kron.materialize(factors.S, factors.A, factors.B)
    m1, n1, m2, n2 = dims
    for p in range(m1):
        for j in range(n1):
            block = W[p * m2 : (p + 1) * m2, j * n2 : (j + 1) * n2]
            assert bool((block == 0).all()) == bool(factors.S[p, j] == 0)
    assert torch.equal(kron.block_mask(W, KroneckerShape(*dims)), factors.S != 0)


@property_test
@given(dims=DIMS, rank=RANKS, seed=SEEDS)
def test_operands_hold_the_stated_entries_in_the_stated_order(dims: Dims, rank: int, seed: int) -> None:
    m1, n1, m2, n2 = dims
    S, A, B = vars(random_factors(dims, rank, seed=seed)).values()
    SA = S * A
    left, right = kron.a_first_operands(S, A, B)
    assert torch.equal(left, torch.stack([SA[i, p] for p in range(m1) for i in range(rank)]))
    assert torch.equal(right, torch.stack([B[i, :, k] for i in range(rank) for k in range(n2)]))
    left, right = kron.b_first_operands(S, A, B)
    assert torch.equal(left, torch.stack([SA[i, :, j] for j in range(n1) for i in range(rank)], dim=1))
    assert torch.equal(right, torch.stack([B[i, q] for i in range(rank) for q in range(m2)], dim=1))


@pytest.mark.parametrize(
    ("operands", "apply"),
    [(kron.a_first_operands, kron.apply_a_first), (kron.b_first_operands, kron.apply_b_first)],
    ids=["a_first", "b_first"],
)
def test_stored_operands_serve_any_number_of_rows(
    operands: Callable[..., tuple[Tensor, Tensor]], apply: Callable[..., Tensor]
) -> None:
    dims, rank = (3, 5, 7, 2), 4
    factors = random_factors(dims, rank)
    W = dense(factors.S, factors.A, factors.B)
    stored = [operand.clone() for operand in operands(factors.S, factors.A, factors.B)]
    for leading in ((), (1,), (6,), (2, 4)):
        x = random_input(leading, 10)
        y = apply(x, *stored, KroneckerShape(*dims), rank)
        assert_near(y, x @ W.T, x.abs() @ _magnitude(factors).T, torch.float64, _terms(dims, rank))


@evaluations
def test_strided_input_is_as_good_as_contiguous(evaluate: Evaluate) -> None:
    factors = random_factors((3, 4, 5, 6), 2)
    x = random_input((24, 7), 5)[..., :3].permute(2, 1, 0)  # [3, 7, n]: no axis has the usual stride
    y = evaluate(x, factors.S, factors.A, factors.B)
    wanted = x @ dense(factors.S, factors.A, factors.B).T
    assert_near(y, wanted, x.abs() @ _magnitude(factors).T, torch.float64, _terms((3, 4, 5, 6), 2))


@evaluations
@settings(max_examples=40, deadline=None)
@given(dims=DIMS, rank=RANKS, leading=LEADING, seed=SEEDS)
def test_gradients_equal_those_through_the_oracle(
    evaluate: Evaluate, dims: Dims, rank: int, leading: tuple[int, ...], seed: int
) -> None:
    factors = random_factors(dims, rank, seed=seed)
    leaves = [random_input(leading, dims[1] * dims[3], seed=seed), factors.S, factors.A, factors.B]

    def through_oracle(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return x @ dense(S, A, B).T

    def gradients(function: Evaluate, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        inputs = [leaf.clone().requires_grad_() for leaf in inputs]
        y = function(*inputs)
        return torch.autograd.grad(y, inputs, torch.ones_like(y))

    found, wanted = gradients(evaluate, leaves), gradients(through_oracle, leaves)
    # A gradient is a sum of products of the same terms: on absolute values it is what it would be uncancelled.
    magnitudes = gradients(through_oracle, [leaf.abs() for leaf in leaves])
    terms = _terms(dims, rank) * dims[0] * dims[2] * max(1, int(np.prod(leading)))
    for one, other, magnitude in zip(found, wanted, magnitudes, strict=True):
        assert_near(one, other, magnitude, torch.float64, terms)


def _svd_tolerance(W: Tensor, dtype: torch.dtype, dims: Dims, rank: int) -> float:
    """Frobenius error of factors in ``dtype``: two rounded factors and their product, and the SVD's own error.

    The scale is ``sum_i |A_i| |B_i| = sum_i sigma_i <= sqrt(r) |W|``; the SVD runs in float32 at least and is
    backward stable: ``max(rows, columns) eps |R|``.
    """
    m1, n1, m2, n2 = dims
    precise = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    eps = 2 * torch.finfo(dtype).eps + 2 * max(m1 * n1, m2 * n2) * precise
    return float(eps * rank**0.5 * W.double().norm())


def _block_sparse(dims: Dims, dtype: torch.dtype, seed: int, zeros: float) -> tuple[Tensor, Tensor]:
    """A random ``W`` and the mask of the blocks it keeps."""
    m1, n1, m2, n2 = dims
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(m1, n1, generator=generator) >= zeros
    W = torch.randn(m1 * m2, n1 * n2, generator=generator, dtype=torch.float64)
    return (W * torch.kron(mask.double(), torch.ones(m2, n2, dtype=torch.float64))).to(dtype), mask


SMALL = st.integers(1, 5) | st.just(7)  # an SVD an example: small is fast enough to try many
NEAREST_DIMS = st.tuples(SMALL, SMALL, SMALL, SMALL)
NEAREST_DTYPES = st.sampled_from((torch.float64, torch.float32, torch.bfloat16))


@property_test
@given(dims=NEAREST_DIMS, dtype=NEAREST_DTYPES, zeros=st.sampled_from((0.0, 0.5, 0.9, 1.1)), seed=SEEDS)
def test_nearest_factors_of_full_rank_are_exact(dims: Dims, dtype: torch.dtype, zeros: float, seed: int) -> None:
    W, mask = _block_sparse(dims, dtype, seed, zeros)
    rank = min(dims[0] * dims[1], dims[2] * dims[3])
    S, A, B = kron.nearest_factors(W, KroneckerShape(*dims), rank)
    assert S.dtype == A.dtype == B.dtype == dtype
    assert (tuple(A.shape), tuple(B.shape)) == ((rank, *dims[:2]), (rank, *dims[2:]))
    error = dense(S.double(), A.double(), B.double()) - W.double()
    assert float(error.norm()) <= _svd_tolerance(W, dtype, dims, rank)
    assert torch.equal(S, (mask if mask.any() else ~mask).to(dtype))  # of a weight that is zero no S learns but 1


@property_test
@given(
    dims=NEAREST_DIMS,
    share=st.floats(0, 1),
    dtype=NEAREST_DTYPES,
    zeros=st.sampled_from((0.0, 0.5)),
    seed=SEEDS,
)
def test_nearest_factors_are_optimal_and_keep_zero_blocks(
    dims: Dims, share: float, dtype: torch.dtype, zeros: float, seed: int
) -> None:
    """Eckart and Young: no sum of ``r`` Kronecker products is nearer than the tail of the singular values."""
    W, mask = _block_sparse(dims, dtype, seed, zeros)
    rank = max(1, round(share * min(dims[0] * dims[1], dims[2] * dims[3])))
    S, A, B = (factor.double() for factor in kron.nearest_factors(W, KroneckerShape(*dims), rank))
    singular = np.linalg.svd(rearrangement(W, dims[2], dims[3]), compute_uv=False)
    least = float(np.sqrt((singular[rank:] ** 2).sum()))
    found = dense(S, A, B)
    distance = float((found - W.double()).norm())
    slack = _svd_tolerance(W, dtype, dims, rank)
    assert least - slack <= distance <= least + slack
    kept = torch.kron(mask.double(), torch.ones(dims[2], dims[3], dtype=torch.float64)).bool()
    assert (found[~kept] == 0).all()


def test_nearest_factors_recover_a_sum_of_kronecker_products() -> None:
    dims: Dims = (4, 3, 5, 7)
    factors = random_factors(dims, 3)
    W = dense(factors.S, factors.A, factors.B)
    S, A, B = kron.nearest_factors(W, KroneckerShape(*dims), 3)
    assert float((dense(S, A, B) - W).norm()) <= _svd_tolerance(W, torch.float64, dims, 3)
    for i in range(3):  # A and B share each singular value evenly
        assert float(A[i].norm()) == pytest.approx(float(B[i].norm()), rel=1e-12)


@property_test
@given(dims=DIMS, seed=SEEDS)
def test_blocks_are_views_of_the_weight(dims: Dims, seed: int) -> None:
    m1, n1, m2, n2 = dims
    W = random_input((m1 * m2,), n1 * n2, seed=seed)
    blocks = kron.blocks_of(W, KroneckerShape(*dims))
    assert blocks.data_ptr() == W.data_ptr()
    assert np.array_equal(blocks.reshape(m1 * n1, m2 * n2).numpy(), rearrangement(W, m2, n2))
