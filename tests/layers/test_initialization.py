"""How factors start: variances of the dense layer's, block by block, and the nearest ones to a weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from models import SHAPE, kronecker_layer
from oracles import dense, dense_weight, random_input, rearrangement
from torch import Tensor, nn

from kronfx.layers import KroneckerLinear
from kronfx.records import KroneckerShape

# Initialization: every block of every draw, and the outputs over many draws, against nn.Linear's 1 / (3 n).

DRAWS = 400


def _outputs(shape: KroneckerShape, rank: int) -> Tensor:
    """Mean square of ``y = W x`` at a fixed ``x`` of norm ``sqrt(n)``, one a draw."""
    torch.manual_seed(7)
    x = F.normalize(random_input((), shape.n, torch.float32), dim=0) * math.sqrt(shape.n)
    layer = KroneckerLinear(shape, rank, "materialize", bias=False)
    outputs = []
    for _ in range(DRAWS):
        layer.reset_factors()
        outputs.append((dense(layer.S, layer.A, layer.B).detach() @ x).square().mean())
    return torch.stack(outputs).double()


def _assert_blocks(layer: KroneckerLinear, std: float) -> None:
    """Every block has the root mean square ``std``: four roundings of the dtype, and those of a sum of r^2 terms."""
    S, A, B = (factor.detach().double() for factor in (layer.S, layer.A, layer.B))
    blocks = torch.from_numpy(rearrangement(dense(S, A, B), *layer.shape.block))
    wanted = torch.full((layer.shape.blocks,), std, dtype=torch.float64)
    bound = 32 * layer.rank * torch.finfo(layer.S.dtype).eps  # amplified where the B_i are nearly parallel
    torch.testing.assert_close(blocks.square().mean(-1).sqrt(), wanted, rtol=bound, atol=0)


def _assert_mean(draws: Tensor, expected: float) -> None:
    """The mean of independent draws is within 4 of its standard errors, themselves under 8% of what is expected."""
    error = float(draws.std()) / math.sqrt(len(draws))
    assert error < 0.08 * expected
    assert abs(float(draws.mean()) - expected) < 4 * error


INIT_SHAPES = [
    KroneckerShape(8, 8, 4, 4),
    KroneckerShape(2, 28, 5, 28),
    KroneckerShape(16, 4, 8, 8),
    KroneckerShape(1, 6, 20, 10),
    KroneckerShape(15, 20, 2, 2),
]


@pytest.mark.parametrize("shape", INIT_SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_random_outputs_have_the_dense_layers_variance(shape: KroneckerShape, rank: int) -> None:
    _assert_mean(_outputs(shape, rank), 1 / 3)  # n entries of W, each of variance 1 / (3 n), at |x|^2 = n


@pytest.mark.parametrize("shape", [*INIT_SHAPES, KroneckerShape(1, 1, 6, 6), KroneckerShape(6, 6, 1, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_block_of_every_draw_has_the_dense_layers_variance(
    shape: KroneckerShape, rank: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = KroneckerLinear(shape, min(rank, shape.max_rank), "materialize", dtype=dtype)
    _assert_blocks(layer, 1 / math.sqrt(3 * shape.n))


def test_dense_layers_have_the_variance_the_factored_ones_are_held_to() -> None:
    torch.manual_seed(0)
    draws = torch.stack([nn.Linear(32, 32).weight.detach().square().mean() for _ in range(100)]).double()
    _assert_mean(draws, 1 / (3 * 32))


@pytest.mark.parametrize("seed", [12, 34])  # two of the first 60 that draw a zero among the 2^20 coefficients
def test_a_draw_of_exactly_zero_is_no_nan(seed: int) -> None:
    layer = KroneckerLinear(KroneckerShape(1024, 1024, 2, 2), 1, "materialize", bias=False)
    torch.manual_seed(seed)
    assert not torch.randn(layer.A.shape).all()
    torch.manual_seed(seed)
    layer.reset_factors(0.02)
    _assert_blocks(layer, 0.02)


def test_a_wanted_deviation_is_met() -> None:
    layer = KroneckerLinear(KroneckerShape(8, 8, 4, 4), 4, "materialize")
    layer.reset_factors(0.02)
    _assert_blocks(layer, 0.02)


def test_a_stack_draws_each_of_its_maps() -> None:
    layer = KroneckerLinear(KroneckerShape(3, 2, 4, 4), 2, "materialize", bias=False, stack=(5,))
    layer.reset_factors(0.02)
    norms = layer.weight.detach().unflatten(1, (3, 4)).unflatten(3, (2, 4)).square().mean(dim=(2, 4)).sqrt()
    torch.testing.assert_close(norms, torch.full((5, 3, 2), 0.02), rtol=1e-5, atol=0)
    assert not torch.equal(layer.A[0], layer.A[1])


def test_random_bias_is_the_dense_layers_and_s_is_one() -> None:
    torch.manual_seed(0)
    layer = KroneckerLinear(KroneckerShape(50, 5, 20, 5), 2, "b_first")
    assert layer.bias is not None
    assert torch.equal(layer.S, torch.ones(50, 5))
    bound = 1 / math.sqrt(25)
    assert float(layer.bias.detach().abs().max()) <= bound
    _assert_mean(layer.bias.detach().double().square(), bound**2 / 3)


def test_resetting_the_factors_leaves_the_bias() -> None:
    layer = kronecker_layer()
    assert layer.bias is not None
    bias, A = layer.bias.detach().clone(), layer.A.detach().clone()
    layer.reset_factors()
    assert torch.equal(layer.bias, bias)
    assert not torch.equal(layer.A, A)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_set_nearest_at_full_rank_is_exact(dtype: torch.dtype) -> None:
    layer = KroneckerLinear(SHAPE, SHAPE.max_rank, "a_first", dtype=dtype)
    W = random_input((15,), 8, dtype)
    W[5:10, 4:6] = 0  # block (1, 2)
    layer.set_nearest(W)
    assert layer.S[1, 2] == 0
    assert int(layer.S.count_nonzero()) == 11
    # The SVD and the product err by max(rows, columns) eps of the norm each.
    error = float((dense_weight(layer) - W.double()).norm())
    assert error <= 2 * 12 * torch.finfo(dtype).eps * SHAPE.max_rank**0.5 * float(W.double().norm())
    assert layer.A.requires_grad
    assert layer.A.is_leaf


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_nearest_factors_know_the_energy_they_keep(rank: int) -> None:
    layer = KroneckerLinear(SHAPE, rank, "materialize")
    assert layer.energy is None
    W = random_input((15,), 8, torch.float32)
    layer.set_nearest(W)
    squares = np.linalg.svd(rearrangement(W, *SHAPE.block), compute_uv=False) ** 2
    assert layer.energy == pytest.approx(squares[:rank].sum() / squares.sum(), rel=1e-5)  # float32
    assert f"energy={layer.energy:.1%}" in repr(layer)
    layer.set_nearest(torch.zeros(15, 8))
    assert layer.energy == 1
