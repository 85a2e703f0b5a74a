"""Targets of the whole model and of its layers: met, out of reach, or refused with what can be had."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from training import assert_said_once, idle, optimizer_of, three_layers, train

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear
from kronfx.train import BlockSparsity, Cosine


def test_each_layer_reaches_its_own_target_and_an_unnamed_one_keeps_its_blocks() -> None:
    model = three_layers()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 1.0, {"*": 0.25, "2": 0.75}, optimizer)
    train(model, optimizer, penalty, range(400))
    assert penalty.layers() == {"0": (6, 24), "2": (27, 36), "4": (3, 12)}

    model = three_layers()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 1.0, {"2": 0.5}, optimizer)
    train(model, optimizer, penalty, range(400))
    assert penalty.layers() == {"0": (0, 24), "2": (18, 36), "4": (0, 12)}


def layer(blocks: tuple[int, int]) -> KroneckerLinear:
    model = kx.factorize(nn.Sequential(nn.Linear(4 * blocks[1], 4 * blocks[0])), rank=1, block=(4, 4))
    return model[0]


@pytest.mark.parametrize("target", [0.8, 0.3, 0.05, 0.95])
def test_a_target_that_four_blocks_cannot_express_is_refused_with_what_they_can(target: float) -> None:
    with pytest.raises(TrainError, match=rf"target={target} of 4 groups; needed a share within 1% of k / 4"):
        BlockSparsity(layer((2, 2)), target=target)
    assert BlockSparsity(layer((2, 2)), target=0.75).target == 0.75


def test_a_target_for_no_layer_is_refused_with_the_known_names() -> None:
    with pytest.raises(TrainError, match="target names 'fc1'; needed what it can act on: 0, 2, 4"):
        BlockSparsity(three_layers(), target={"fc1": 0.5})
    with pytest.raises(TrainError, match="target names 1; needed what it can act on: 0, 2, 4"):
        BlockSparsity(three_layers(), target={1: 0.5})
    with pytest.raises(TrainError, match="a target for no layer; needed one for some of 0, 2, 4"):
        BlockSparsity(three_layers(), target={})
    with pytest.raises(TrainError, match="target=0.001 of 72 groups; .*; take 0.0139$"):  # and not 0
        BlockSparsity(three_layers(), target=0.001)


def test_a_target_and_a_schedule_are_one_too_many() -> None:
    with pytest.raises(TrainError, match="a target and a schedule of the strength"):
        BlockSparsity(three_layers(), Cosine(0.0, 1.0, over=10), target=0.5)


def test_a_target_out_of_reach_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronfx.train.course.loop.STALLED", 50)
    model = three_layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    penalty = BlockSparsity(model, target=0.5, optimizer=optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        idle(optimizer, penalty, 120)
    assert_said_once(caught, "0 of 72 groups are zero (a learning rate of 0); the target 0.5 is out of reach")


def test_a_layer_that_loses_all_its_blocks_is_named_once() -> None:
    model = three_layers()
    nn.init.constant_(kx.factors(model)["4"].S, 1e-9)
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 0.01, optimizer=optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        idle(optimizer, penalty, 3)
    assert_said_once(caught, "4 (8x24): all of its groups are zero")
