"""Block sparsity in training: the step in closed form, zeros counted on the weight, the target reached and held."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import dense, random_factors
from torch import Tensor, nn
from training import fit

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear, sparsity
from kronfx.records import KroneckerShape
from kronfx.train import BlockSparsity

dims = st.tuples(*[st.integers(1, 5)] * 4)
EXACT = 1e-12  # relative, float64: a handful of roundings of 1.1e-16, amplified by sums of at most 100 terms


def _layer(
    shape: tuple[int, int, int, int] = (4, 6, 2, 3),
    rank: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    zeros: float = 0.0,
) -> KroneckerLinear:
    """A layer with normal factors; a share ``zeros`` of ``S`` is exactly 0."""
    layer = KroneckerLinear(KroneckerShape(*shape), rank, "materialize", bias=False, dtype=dtype)
    drawn = random_factors(shape, rank, dtype, seed, zeros)
    with torch.no_grad():
        for parameter, value in zip((layer.S, layer.A, layer.B), (drawn.S, drawn.A, drawn.B)):
            parameter.copy_(value)
    return layer


def _weight(layer: KroneckerLinear, S: Tensor | None = None) -> Tensor:
    """``W`` by ``torch.kron``, with another ``S`` where one is given."""
    return dense(layer.S.detach() if S is None else S, layer.A.detach(), layer.B.detach())


def _soft(S: Tensor, threshold: float) -> Tensor:
    """``argmin_z 1/2 (z - S)^2 + threshold |z|``, entry by entry, in numpy."""
    array = S.detach().double().numpy()
    return torch.from_numpy(np.sign(array) * np.maximum(np.abs(array) - threshold, 0)).to(S.dtype)


def _close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=EXACT, atol=EXACT * (1 + float(wanted.abs().max())))


def _share_of_zero_blocks(W: Tensor, shape: KroneckerShape) -> float:
    """Block by block, in numpy."""
    array, zero = W.detach().numpy(), 0
    for p in range(0, shape.m, shape.m2):
        for j in range(0, shape.n, shape.n2):
            zero += not array[p : p + shape.m2, j : j + shape.n2].any()
    return zero / shape.blocks


def _teacher(shape: KroneckerShape, share: float, seed: int = 7) -> Tensor:
    """``W [m, n]`` of rank one in blocks, a share of the blocks zero."""
    generator = torch.Generator().manual_seed(seed)
    S = (torch.rand(shape.m1, shape.n1, generator=generator, dtype=torch.float64) >= share).double()
    sign = torch.randn(shape.m1, shape.n1, generator=generator, dtype=torch.float64).sign()
    return torch.kron(S * sign, torch.ones(shape.m2, shape.n2, dtype=torch.float64))


def _step(model: nn.Module, lr: float = 1e-3, **options: Any) -> BlockSparsity:
    """One step of SGD without gradients, and of the helper after it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    helper = BlockSparsity(model, optimizer=optimizer, **options)
    optimizer.step()
    helper.step()
    return helper


@given(dims, st.integers(1, 3), st.floats(0, 3), st.integers(0, 99))
def test_a_step_is_the_closed_form_of_the_proximal_operator(
    shape: tuple[int, int, int, int], rank: int, threshold: float, seed: int
) -> None:
    layer = _layer(shape, rank, seed)
    wanted = _weight(layer, _soft(layer.S, threshold))
    _step(layer, lr=0.5, strength=threshold / 0.5)
    _close(_weight(layer), wanted)
    assert torch.equal(layer.S == 0, _soft(_layer(shape, rank, seed).S, threshold) == 0)


@given(dims, st.integers(1, 3), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_the_scale_of_S_is_held_and_W_stays(
    shape: tuple[int, int, int, int], rank: int, scale: float, seed: int
) -> None:
    layer = _layer(shape, rank, seed)
    with torch.no_grad():
        layer.S *= scale
    W, before = _weight(layer), layer.S.detach().clone()
    _step(layer, strength=0)
    _close(_weight(layer), W)
    _close(layer.S.detach(), before / before.square().mean().sqrt())


def test_an_S_of_zeros_has_no_scale_to_hold() -> None:
    layer = _layer()
    A = layer.A.detach().clone()
    _step(layer, strength=1e6)
    assert not layer.S.any()
    assert torch.equal(layer.A, A)


def test_the_penalty_is_the_value_of_the_objective_and_has_no_gradient() -> None:
    model = nn.Sequential(_layer(seed=1), nn.Tanh(), _layer((2, 4, 3, 2), seed=2))
    helper = BlockSparsity(model, strength=0.3)
    wanted = 0.3 * sum(float(np.abs(model[i].S.detach().numpy()).sum()) for i in (0, 2))
    penalty = helper.penalty()
    assert penalty.shape == ()
    assert not penalty.requires_grad
    assert float(penalty) == pytest.approx(wanted, rel=1e-6)  # summed in float32

    alone = copy.deepcopy(model)
    x = torch.randn(5, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (model(x).square().mean() + penalty).backward()
    alone(x).square().mean().backward()
    for found, plain in zip(model.parameters(), alone.parameters()):
        assert torch.equal(found.grad, plain.grad)


def test_each_S_shrinks_by_the_rate_of_its_own_group_as_it_is_now() -> None:
    model = nn.Sequential(_layer(seed=1), _layer((2, 4, 3, 2), seed=2))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "lr": 0.4}]
    optimizer = torch.optim.SGD(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    helper = BlockSparsity(model, strength=2.0, optimizer=optimizer)
    for rates in ((0.1, 0.4), (0.05, 0.2)):
        wanted = [_weight(layer, _soft(layer.S, 2 * rate)) for layer, rate in zip(model, rates)]
        optimizer.step()
        helper.step()
        for layer, W in zip(model, wanted):
            _close(_weight(layer), W)
        schedule.step()
    optimizer.load_state_dict(optimizer.state_dict())  # replaces the groups: a rate read once would be stale
    optimizer.param_groups[0]["lr"] = 0.0
    W = _weight(model[0])
    optimizer.step()
    helper.step()
    _close(_weight(model[0]), W)


def test_zero_blocks_of_a_planted_pattern_appear_and_are_counted_on_the_folded_weight() -> None:
    torch.manual_seed(0)
    shape = KroneckerShape(4, 6, 2, 3)
    layer = KroneckerLinear(shape, 2, "materialize", bias=False, dtype=torch.float64)
    W = _teacher(shape, share=0.5)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    helper = BlockSparsity(layer, strength=0.3, optimizer=optimizer)
    assert helper.sparsity() == 0
    fit(layer, W, helper, optimizer, 500, rows=32)
    assert torch.equal(layer.S == 0, W[::2, ::3] == 0)
    folded = kx.fold(nn.Sequential(layer))[0].weight
    assert helper.sparsity() == _share_of_zero_blocks(folded, shape) == _share_of_zero_blocks(layer.weight, shape)


def test_a_block_that_is_needed_grows_back() -> None:
    torch.manual_seed(0)
    shape = KroneckerShape(4, 6, 2, 3)
    layer = KroneckerLinear(shape, 2, "materialize", bias=False, dtype=torch.float64)
    W = _teacher(shape, share=0.5)
    p, j = (int(i) for i in W[::2, ::3].nonzero()[0])
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02, weight_decay=0.01)
    helper = BlockSparsity(layer, strength=0.3, optimizer=optimizer)
    with torch.no_grad():
        layer.S[p, j] = 0
    fit(layer, W, helper, optimizer, 300, rows=32)
    assert layer.S[p, j] != 0


@pytest.mark.parametrize("target", [0.25, 0.6, 0.9])
def test_the_target_is_reached_and_held(target: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        KroneckerLinear(KroneckerShape(8, 6, 2, 3), 2, "materialize"),
        nn.ReLU(),
        KroneckerLinear(KroneckerShape(3, 8, 2, 2), 2, "materialize"),
    )
    x = torch.randn(64, 18)
    y = torch.randn(64, 6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    helper = BlockSparsity(model, strength=3.0, target=target, optimizer=optimizer)
    shares = []
    for _ in range(400):
        optimizer.zero_grad()
        ((model(x) - y).square().mean() + helper.penalty()).backward()
        optimizer.step()
        helper.step()
        shares.append(helper.sparsity())
    count = round(72 * target)  # of 48 + 24 blocks
    assert max(shares) <= count / 72
    assert min(shares[-100:]) > (count - 1) / 72 - 1e-9


def test_the_target_is_reached_from_above_too() -> None:
    layer = _layer(zeros=0.7)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    helper = BlockSparsity(layer, strength=100, target=0.25, optimizer=optimizer)
    assert helper.sparsity() > 0.5
    fit(layer, _teacher(layer.shape, share=0.0), helper, optimizer, 20, rows=32)
    assert helper.sparsity() == 0.25  # 6 of 24


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_reaches_the_target_exactly_in_every_dtype(dtype: torch.dtype) -> None:
    layer = _layer(dtype=dtype)
    helper = _step(layer, strength=1e6, target=0.5)
    assert 11 <= round(24 * helper.sparsity()) - 1 <= 13  # half-precision sizes may tie
    assert bool(torch.isfinite(layer.weight).all())


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    layer = _layer()
    W = _weight(layer)
    _step(layer, lr=0.0, target=0.5)
    _close(_weight(layer), W)


@given(dims, st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_the_share_is_the_one_counted_on_the_weight(
    shape: tuple[int, int, int, int], rank: int, seed: int, dead: bool
) -> None:
    layer = _layer(shape, rank, seed, zeros=0.3)
    with torch.no_grad():
        layer.A[:, 0, 0] = 0
        layer.A[1:, -1, -1] = 0
        layer.B[0] *= not dead
    zero, blocks = sparsity(layer)
    assert BlockSparsity(layer).sparsity() == zero / blocks == _share_of_zero_blocks(_weight(layer), layer.shape)


def test_a_frozen_S_keeps_its_values() -> None:
    model = nn.Sequential(_layer(seed=1), _layer((2, 4, 3, 2), seed=2))
    model[0].S.requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    helper = _step(model, strength=1e6)
    assert all(torch.equal(value, before[name]) for name, value in model[0].state_dict().items())
    assert bool((model[1].S == 0).all())
    assert helper.sparsity() == 8 / 32


def _refused(model: nn.Module, **options: object) -> str:
    with pytest.raises(TrainError) as caught:
        BlockSparsity(model, **options)
    return str(caught.value)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(strength: float) -> None:
    assert str(strength) in _refused(_layer(), strength=strength)


@pytest.mark.parametrize("target", [-0.1, 0, 1, 80, float("nan")])
def test_a_target_outside_the_unit_interval_is_refused(target: float) -> None:
    assert f"target={target!r}" in _refused(_layer(), target=target)


def test_a_target_needs_a_strength_to_start_from() -> None:
    assert "strength" in _refused(_layer(), strength=0, target=0.5)


def test_a_model_without_trainable_factors_is_refused() -> None:
    assert "kronfx.factorize" in _refused(nn.Linear(4, 4))
    layer = _layer()
    layer.S.requires_grad_(False)
    assert "frozen" in _refused(layer)


def test_an_optimizer_of_another_model_is_refused_with_the_layer() -> None:
    model = nn.Sequential(_layer(), _layer((3, 4, 3, 2)))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    assert "1 (9x8)" in _refused(model, optimizer=optimizer)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_S_that_is_not_finite_is_reported_with_its_layer(value: float) -> None:
    model = nn.Sequential(_layer(), _layer((3, 4, 3, 2)))
    helper = BlockSparsity(model, target=0.5, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    helper.optimizer.step()
    with torch.no_grad():
        model[1].S[0, 0] = value
    before = model[0].S.detach().clone()
    with pytest.raises(TrainError, match=r"1 \(9x8\).*NaN or infinite"):
        helper.step()
    assert torch.equal(model[0].S, before)
