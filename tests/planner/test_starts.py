"""Starts at zero: maps that were named, maps that are zero in the user's model, ranks that a weight has no use for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Skip, mlp, skip
from torch import Tensor, nn

import kronfx as kx
from kronfx import kron
from kronfx.layers import KroneckerLinear, kronecker_layers
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape

SIZES = st.integers(1, 5)


def gradients(model: nn.Module, x: Tensor) -> set[str]:
    """The parameters that a loss moves."""
    model.zero_grad()
    y = model(x)
    F.mse_loss(y, torch.randn_like(y)).backward()  # of equal targets the gradients of equal blocks may cancel
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


def step(model: nn.Module, x: Tensor) -> set[str]:
    """One step of SGD, and the parameters that it moved."""
    moved = gradients(model, x)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return moved


def drawn(model: nn.Module, plan: kx.Plan) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return dict(kx.factorize(model, plan).named_parameters())


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_only_the_factor_applied_last_is_zero(evaluation: Evaluation) -> None:
    model = skip(16, 32, 16)
    plan = kx.plan(model, rank=2, block=(4, 4), zero_start="2").edited("2", evaluation=evaluation)
    ours, others = drawn(model, plan), drawn(model, plan.edited("2", zero_start=False))
    last = "2.A" if evaluation == "b_first" else "2.B"
    assert not ours[last].any()
    assert {name for name in ours if not torch.equal(ours[name], others[name])} == {last}
    assert torch.equal(ours["2.bias"], model[2].bias)
    x = torch.randn(5, 16)
    assert torch.equal(kx.factorize(model, plan)(x), x + model[2].bias)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("convolution", [False, True])
def test_a_zero_start_learns(evaluation: Evaluation, convolution: bool) -> None:
    """The zero factor moves in the first step, every factor, of the layer before too, in the second."""
    first, last, x = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), torch.randn(3, 4, 5, 5)
    model = Skip(first, nn.Tanh(), last) if convolution else skip(16, 32, 16)
    plan = kx.plan(model, rank=2, block=(4, 4), zero_start="2").edited("2", evaluation=evaluation)
    factored = kx.factorize(model, plan)
    x = x if convolution else torch.randn(5, 16)
    assert step(factored, x) & {"2.S", "2.A", "2.B"} == {"2.A" if evaluation == "b_first" else "2.B"}
    assert gradients(factored, x) == set(dict(factored.named_parameters()))


def test_each_candidate_of_a_site_starts_at_zero() -> None:
    model = skip(16, 16, 16)
    factored = kx.factorize(model, block=[(4, 4), (2, 8)], rank=1, zero_start="2")
    zero = {name: not layer.weight.any() for name, layer in kronecker_layers(factored).items()}
    assert zero == {"0.0": False, "0.1": False, "2.0": True, "2.1": True}


@pytest.mark.parametrize("block", [(2, 2), (4, 4), (8, 8)])
def test_a_site_that_starts_at_zero_finds_its_pattern(block: tuple[int, int]) -> None:
    torch.manual_seed(0)
    W = torch.kron(torch.randn(16 // block[0], 16 // block[1]), torch.randn(block))
    W *= 4 / torch.linalg.vector_norm(W)
    model = kx.factorize(Skip(nn.Linear(16, 16)), rank=1, block=[(2, 2), (4, 4), (8, 8)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    selection = kx.train.PatternSelection(model, strength=0.0, optimizer=optimizer, growth=1.01)
    assert not any(layer.weight.any() for layer in kronecker_layers(model).values())
    for _ in range(600):
        x = torch.randn(64, 16)
        optimizer.zero_grad()
        (F.mse_loss(model(x), x + x @ W.T) + selection.penalty()).backward()
        optimizer.step()
        selection.step()
        if selection.selected is not None:
            break
    assert selection.selected == block


def test_a_padded_layer_starts_at_zero() -> None:
    model = skip(13, 16, 13)
    plan = kx.plan(model, rank=1, padding=0.5, block={"2": (4, 4)}, zero_start="2")
    assert any(plan.choices[1].padding)
    assert not kx.factorize(model, plan)[2].weight.any()


@given(st.tuples(SIZES, SIZES, SIZES, SIZES), st.integers(1, 3), st.sampled_from(EVALUATIONS), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_map_that_is_zero_stays_zero_and_learns(
    dims: tuple[int, int, int, int], rank: int, evaluation: Evaluation, nearest: bool
) -> None:
    shape = KroneckerShape(*dims)
    dense = nn.Linear(shape.n, shape.m, bias=False)
    nn.init.zeros_(dense.weight)
    rank = min(rank, shape.max_rank)
    plan = kx.plan(dense, rank=rank, block=shape.block, zero_start=None).edited("weight", evaluation=evaluation)
    layer = kx.factorize(dense, plan, init="nearest" if nearest else "random")
    x = torch.randn(6, shape.n)
    assert not layer(x).any()
    assert not layer.weight.any()
    assert len(step(layer, x)) == 1
    assert gradients(layer, x) == {"S", "A", "B"}


def test_one_zero_expert_of_a_stack_stays_zero() -> None:
    W = torch.randn(3, 8, 8)
    W[1] = 0.0
    layer = KroneckerLinear(KroneckerShape(2, 2, 4, 4), 4, "materialize", bias=False, stack=(3,))
    layer.set_nearest(W)
    assert [bool(one.any()) for one in layer.weight] == [True, False, True]
    layer.weight.square().sub(layer.weight).sum().backward()
    assert all(bool(one.any()) for one in layer.B.grad)


@given(st.tuples(SIZES, SIZES, SIZES, SIZES), st.integers(0, 4), st.floats(0, 0.9), st.integers(0, 2**16))
@settings(deadline=None)
def test_surplus_ranks_are_exact_and_learn(dims: tuple[int, int, int, int], used: int, zeros: float, seed: int) -> None:
    """``W`` of ``used`` Kronecker products and some zero blocks, at full rank: exact, zero blocks exactly, and of no
    rank are both factors zero."""
    torch.manual_seed(seed)
    shape = KroneckerShape(*dims)
    mask = (torch.rand(shape.m1, shape.n1) >= zeros).float()
    A, B = torch.randn(used, shape.m1, shape.n1), torch.randn(used, *shape.block)
    W = kron.materialize(mask, A, B) if used else torch.zeros(shape.m, shape.n)
    S, A, B = kron.nearest_factors(W, shape, shape.max_rank)
    product = kron.materialize(S, A, B)
    assert torch.linalg.vector_norm(product - W) <= 64 * torch.finfo(W.dtype).eps * torch.linalg.vector_norm(W)
    assert not (kron.block_mask(product, shape) & ~kron.block_mask(W, shape)).any()
    coefficients = (S * A).flatten(1).any(dim=1)
    assert coefficients.all()
    assert bool(S.all()) if not W.any() else bool((S.bool() == kron.block_mask(W, shape)).all())


def test_a_weight_that_needs_every_rank_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    W = torch.linspace(-1, 1, 64).sin().reshape(8, 8) + torch.eye(8)
    kron.nearest_factors(W, KroneckerShape(2, 2, 4, 4), 2)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_plan_keeps_what_starts_at_zero() -> None:
    plan = kx.plan(nn.Sequential(skip(32, 32, 32), skip(32, 32, 32)), rank=1, zero_start=["0.2", "1.2"])
    assert plan.zero_started == ("0.2", "1.2")
    assert kx.Plan.from_json(plan.to_json()) == plan
    assert "zero at a random start (2): 0-1.2 (2)" in str(plan)
    assert "zero at the start" in str(plan - plan.edited("1.2", zero_start=False))


def test_a_plan_of_an_older_version_starts_nothing_at_zero() -> None:
    plan = kx.plan(mlp(32, 32, 32), rank=1, zero_start=None)
    older = plan.to_json().replace(',\n   "zero_start": false', "").replace(',\n "notes": []', "")
    assert "zero_start" not in older
    assert "notes" not in older
    assert kx.Plan.from_json(older) == plan


def test_nearest_factors_keep_the_weights_whatever_the_plan_says() -> None:
    model = skip(16, 16, 16)
    plan = kx.plan(model, rank="full", zero_start="2")
    torch.testing.assert_close(kx.factorize(model, plan, init="nearest")[2].weight, model[2].weight)
    with pytest.raises(kx.KronfxError, match="zero_start='2' with an init that keeps the weights"):
        kx.factorize(model, zero_start="2", init="nearest")


@pytest.mark.parametrize(
    ("zero_start", "sentence"),
    [
        ("3", "no linear map of this model; needed a known name .nearest: 2"),
        (["2", "fc*"], "zero_start names 'fc.*', which is no linear map"),
        (4, "zero_start names a layer by 4"),
        (nn.Conv2d, "zero_start names Conv2d, and no linear map of this model lives in one"),
    ],
)
def test_names_that_are_no_maps(zero_start: object, sentence: str) -> None:
    with pytest.raises(kx.KronfxError, match=sentence):
        kx.plan(skip(16, 16, 16), rank=1, zero_start=zero_start)


def test_a_named_map_that_is_left_alone() -> None:
    model = skip(2, 16, 2)
    with pytest.raises(kx.KronfxError, match=r"2 \(2x16\)|zero_start names a map that is left alone"):
        kx.plan(model, rank=4, zero_start="2")
    two = nn.Sequential(skip(16, 16, 16), skip(16, 16, 16))
    assert kx.plan(two, rank=4, exclude="0.2", zero_start="*").zero_started == ("1.2",)
