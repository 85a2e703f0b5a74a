"""What a block of a factored layer is charged for is an axis of its own: steps against the operator's definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import mlp
from oracles import dense, random_factors
from torch import Tensor, nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear
from kronfx.records import KroneckerShape
from kronfx.train import BlockSparsity, Elastic, Lasso
from kronfx.train.parts.shrinkage import Shrinkage

RATE = 0.5


class Ridge:
    """A charge that kronfx does not have, by its two methods: ``||W_g||^2 / 2``, which makes nothing zero."""

    def charge(self, norms: Tensor) -> Tensor:
        return norms.square() / 2

    def factor(self, norms: Tensor, threshold: float) -> Tensor:
        return torch.full_like(norms, 1 / (1 + threshold))


CHARGES: list[Shrinkage] = [Lasso(), Elastic(0.7), Elastic(0), Ridge()]
shapes = st.tuples(*[st.integers(1, 4)] * 4)


def layer_of(shape: tuple[int, int, int, int], seed: int = 0) -> KroneckerLinear:
    layer = KroneckerLinear(KroneckerShape(*shape), 2, "materialize", bias=False, dtype=torch.float64)
    drawn = random_factors(shape, 2, torch.float64, seed, 0.0)
    with torch.no_grad():
        for parameter, value in zip((layer.S, layer.A, layer.B), (drawn.S, drawn.A, drawn.B)):
            parameter.copy_(value)
    return layer


def weight(layer: KroneckerLinear) -> Tensor:
    return dense(layer.S.detach(), layer.A.detach(), layer.B.detach())


def step(model: nn.Module, **options: object) -> BlockSparsity:
    """One step without gradients: nothing moves but what shrinks."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    helper = BlockSparsity(model, optimizer=optimizer, **options)  # type: ignore[arg-type]
    optimizer.step()
    helper.step()
    return helper


@given(shapes, st.sampled_from(CHARGES), st.floats(0, 2), st.integers(0, 99))
def test_a_step_is_the_minimum_it_claims_to_be(
    shape: tuple[int, int, int, int], charge: Shrinkage, threshold: float, seed: int
) -> None:
    """``argmin_z 1/2 (z - s)^2 + t charge(|z|)`` for every block's ``s``, read off the weight: no other scale of the
    block has a lower objective. It is strongly convex, so that one this low is the minimum to the root of the slack."""
    layer = layer_of(shape, seed)
    S, before = layer.S.detach().clone(), weight(layer)
    step(layer, strength=threshold / RATE, shrinkage=charge)
    after = weight(layer)
    m1, n1, m2, n2 = shape
    for p in range(m1):
        for j in range(n1):
            tile = slice(p * m2, (p + 1) * m2), slice(j * n2, (j + 1) * n2)
            s, share = float(S[p, j]), float((before[tile] * after[tile]).sum() / before[tile].square().sum())
            torch.testing.assert_close(after[tile], share * before[tile], rtol=1e-9, atol=1e-12)
            z = np.append(np.linspace(-abs(s), abs(s), 2001), share * s)
            values = 0.5 * (z - s) ** 2 + threshold * charge.charge(torch.from_numpy(np.abs(z))).numpy()
            assert values[-1] <= values[:-1].min() + 1e-12 * (1 + s * s)


@pytest.mark.parametrize("charge", CHARGES)
def test_the_penalty_is_the_value_of_the_objective_and_the_scale_is_held(charge: Shrinkage) -> None:
    layer = layer_of((4, 6, 2, 3))
    norms = layer.S.detach().abs()
    wanted = 0.3 * float(charge.charge(norms).sum())
    assert float(BlockSparsity(layer, 0.3, shrinkage=charge).penalty()) == pytest.approx(wanted, rel=1e-6)  # in float32
    step(layer, strength=0.3, shrinkage=charge)
    assert float(layer.S.detach().square().mean()) == pytest.approx(1, rel=1e-12)


def test_the_lasso_is_what_runs_where_nothing_is_said() -> None:
    plain, said = layer_of((4, 6, 2, 3)), layer_of((4, 6, 2, 3))
    step(plain, strength=0.4)
    step(said, strength=0.4, shrinkage=Lasso())
    assert torch.equal(plain.S, said.S)
    assert bool((plain.S == 0).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_is_reached_by_an_elastic_charge(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = kx.factorize(mlp(16, 24, 8), rank=2, block=(4, 4)).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    helper = BlockSparsity(model, 3.0, 0.5, optimizer, shrinkage=Elastic(0.5))
    for number in range(150):
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(number)).to(dtype)
        optimizer.zero_grad()
        (model(x) - x[:, :8]).square().mean().backward()
        optimizer.step()
        helper.step()
    assert helper.sparsity() == 0.5
    assert helper.reached


@pytest.mark.parametrize("charge", [Lasso, "lasso", 0.5, (1, 2)])
def test_what_is_no_shrinkage_is_refused(charge: object) -> None:
    with pytest.raises(TrainError, match=r"shrinkage=.*; needed a value such as Lasso\(\); pass kronfx.train.Lasso"):
        BlockSparsity(layer_of((2, 2, 2, 2)), shrinkage=charge)  # type: ignore[arg-type]


def test_a_ramp_charges_nothing() -> None:
    with pytest.raises(TrainError, match=r"steps=40 and shrinkage=Elastic\(ridge=1.0\); needed one of the two"):
        BlockSparsity(layer_of((2, 2, 2, 2)), target=0.5, steps=40, shrinkage=Elastic())
