"""Freezing and resuming a penalty: zeros stay, numbers come out the same, other states are refused."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from models import mlp
from torch import nn
from training import LR, assert_equal, backward, build, model_of, optimizer_of, three_layers, train, values

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, BlockSparsity, Linear, MagnitudePruning

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("factored", {"strength": Linear(0.0, 8.0, over=20)}),
    ("factored", {"strength": 3.0, "target": 0.5}),
    ("factored", {"strength": 3.0, "target": {"0": 0.25, "2": 0.5}}),
    ("lasso", {"strength": 3.0, "target": 0.5}),
    ("pruning", {}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_training_comes_to_the_same_numbers(kind: str, options: dict[str, Any], frozen: bool) -> None:
    model = model_of(kind)
    optimizer = optimizer_of(model)
    penalty = build(kind, model, optimizer, **options)
    train(model, optimizer, penalty, range(12))
    if frozen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # short of its target
            penalty.freeze()
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), penalty.state_dict()))
    train(model, optimizer, penalty, range(12, 24))

    again = model_of(kind)
    second = optimizer_of(again)
    resumed = build(kind, again, second, **options)
    again.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    train(again, second, resumed, range(12, 24))
    assert_equal(values(again), values(model))
    assert resumed.strength == penalty.strength
    assert resumed.sparsity() == penalty.sparsity() > 0

    fresh = build(kind, again, second, **options)  # without its state the numbers are others
    assert fresh.state_dict() != saved[2]


@pytest.mark.parametrize("kind", ["factored", "lasso", "pruning"])
def test_frozen_zeros_stay_and_the_rest_trains_without_shrinkage(kind: str) -> None:
    model = model_of(kind)
    optimizer = optimizer_of(model)
    options: dict[str, Any] = {} if kind == "pruning" else {"strength": 3.0, "target": 0.5}
    penalty = build(kind, model, optimizer, **options)
    train(model, optimizer, penalty, range(60))
    penalty.freeze()
    zero = penalty.layers()
    assert 0.3 < penalty.sparsity() < 0.9

    plain = copy.deepcopy(model)  # the oracle: the optimizer's steps, its zeros put back
    theirs = torch.optim.Adam(plain.parameters(), lr=LR)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    masks = {name: value != 0 for name, value in plain.named_parameters()}
    for step in range(60, 80):
        theirs.zero_grad()
        backward(plain, step)
        theirs.step()
        with torch.no_grad():
            for name, value in plain.named_parameters():
                if name.endswith("S") or (kind != "factored" and name.endswith("weight")):
                    value *= masks[name]
    train(model, optimizer, penalty, range(60, 80))
    assert_equal(values(model), values(plain))
    assert penalty.layers() == zero
    assert float(penalty.penalty()) == 0


@pytest.mark.parametrize("target", [0.5, {"0": 0.25, "4": 0.75}])
def test_frozen_short_of_its_target_it_cuts_the_smallest_off_and_says_so(target: Any) -> None:
    """Equal sizes too: every ``S`` starts at 1, so that only some of those that tie may go."""
    model = three_layers()
    S = kx.factors(model)["4"].S
    with torch.no_grad():
        S.copy_(1 + torch.rand(S.shape))
    before = {name: factors.S.detach().clone() for name, factors in kx.factors(model).items()}
    penalty = BlockSparsity(model, 0.001, target=target, optimizer=optimizer_of(model))
    with pytest.warns(UserWarning, match=r"frozen with 0 of \d+ groups shrunk to zero; the smallest \d+ were cut off"):
        penalty.freeze()
    wanted = {"": target} if isinstance(target, float) else target
    for where, share in wanted.items():
        counted = [pair for name, pair in penalty.layers().items() if where in ("", name)]
        zero, groups = (sum(column) for column in zip(*counted))
        assert zero == round(share * groups)
    for name, factors in kx.factors(model).items():
        alive = factors.S.detach() != 0
        assert torch.equal(factors.S.detach()[alive], before[name][alive])
        if not alive.all() and alive.any():
            assert before[name][~alive].max() <= before[name][alive].min()


def test_a_state_of_another_plan_or_target_is_refused() -> None:
    state = BlockSparsity(three_layers(), target=0.5).state_dict()
    torch.manual_seed(0)
    other = kx.factorize(mlp(16, 24, 24, 8), rank=2, block={"0": (4, 4), "2": (2, 4), "4": (4, 4)})
    with pytest.raises(TrainError, match=r"train: 2: the saved state has \[6, 6, 4, 4, 2, 36\], this model \[12, 6"):
        BlockSparsity(other, target=0.5).load_state_dict(state)
    with pytest.raises(TrainError, match="targets for the whole model, this one for nothing"):
        BlockSparsity(three_layers()).load_state_dict(state)
    smaller = nn.Sequential(*list(three_layers())[:3])
    with pytest.raises(TrainError, match="train: 4: the saved state has .*, this model none"):
        BlockSparsity(smaller, target=0.5).load_state_dict(state)


def test_what_is_no_state_or_no_optimizer_is_refused() -> None:
    pruning = MagnitudePruning(mlp(4, 4), Blocks(2, 2), 0.5)
    whole, lacking = pruning.state_dict(), pruning.state_dict()
    del lacking["alive"]
    for state in (None, "state", [], lacking):
        with pytest.raises(TrainError, match="a saved state without .*alive; needed one with parts, steps, loops"):
            pruning.load_state_dict(state)
    pruning.load_state_dict(whole)
    for optimizer in ("sgd", torch.optim.SGD, three_layers().parameters()):
        with pytest.raises(TrainError, match="where the optimizer belongs; needed a torch.optim.Optimizer"):
            BlockSparsity(three_layers(), optimizer=optimizer)


def test_frozen_zeros_of_a_layer_that_no_longer_trains_are_refused() -> None:
    saved = BlockSparsity(three_layers())
    saved.freeze()
    model = three_layers()
    kx.factors(model)["2"].S.requires_grad_(False)
    penalty = BlockSparsity(model)
    with pytest.raises(TrainError, match=r"train: 2 \(24x24\): zeros frozen in training"):
        penalty.load_state_dict(saved.state_dict())
    assert not penalty.frozen
