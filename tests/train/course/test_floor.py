"""No layer vanishes as a whole unless asked: the floor under a target of the whole model."""

from __future__ import annotations

import warnings

import pytest
import torch
from models import mlp
from torch import Tensor, nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, BlockSparsity, GroupLasso
from kronfx.train.penalties.penalty import Penalty

STEPS = 60
SAID = r"train: faint \(16x16\): {} of its 16 groups stay, whatever they are worth, and other layers give the rest"


class Faint(nn.Module):
    """Two maps of 16 blocks and one of 64, of which one hardly matters."""

    def __init__(self) -> None:
        super().__init__()
        self.faint, self.loud, self.large = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 64)

    def forward(self, x: Tensor) -> Tensor:
        return (self.large(self.loud(x) + 1e-4 * self.faint(x))).unflatten(-1, (4, 16)).sum(-2)


def factored() -> nn.Module:
    torch.manual_seed(0)
    return kx.factorize(Faint(), rank=2, block=(4, 4))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        x = torch.randn(32, 16, generator=generator)
        optimizer.zero_grad()
        (model(x) - x.roll(1, -1)).square().mean().backward()
        optimizer.step()
        penalty.step()


def fade(model: nn.Module) -> None:
    """The blocks of the faint layer the smallest of all."""
    with torch.no_grad():
        kx.factors(model)["faint"].S.mul_(1e-3)


@pytest.mark.parametrize("target", [0.5, 0.75])
def test_the_ramp_leaves_a_layer_its_floor_and_takes_the_rest_elsewhere(target: float) -> None:
    model = factored()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    penalty = BlockSparsity(model, target=target, optimizer=optimizer, steps=STEPS)
    with pytest.warns(UserWarning, match=SAID.format(1)) as caught:
        train(model, optimizer, penalty)
    assert len(caught) == 1
    assert penalty.layers()["faint"] == (15, 16)
    report = kx.inspect(kx.fold(model))
    assert report.zero_blocks == target * 96
    assert caught[0].filename == __file__


def test_a_layer_that_is_asked_for_more_gives_more() -> None:
    model = factored()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    penalty = BlockSparsity(model, target={"faint": 0.9375, "l*": 0.25}, optimizer=optimizer, steps=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, penalty)
    assert penalty.layers() == {"faint": (15, 16), "loud": (4, 16), "large": (16, 64)}


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_the_closed_loop_and_its_freezing_leave_the_floor_too(kind: str) -> None:
    torch.manual_seed(0)
    model = factored() if kind == "factored" else Faint()
    fade(model) if kind == "factored" else nn.init.normal_(model.faint.weight, std=1e-5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    penalty: Penalty = (
        BlockSparsity(model, 2000.0, 0.5, optimizer)
        if kind == "factored"
        else GroupLasso(model, Blocks(4, 4), 2000.0, 0.5, optimizer)
    )
    with pytest.warns(UserWarning, match=SAID.format(1)):
        train(model, optimizer, penalty)
    assert penalty.layers()["faint"][0] < 16
    assert penalty.sparsity() == 0.5


def test_frozen_short_of_its_target_it_cuts_no_layer_off() -> None:
    model = factored()
    fade(model)
    penalty = BlockSparsity(model, target=0.5, optimizer=torch.optim.SGD(model.parameters(), lr=1e-3))
    with pytest.warns(UserWarning, match=SAID.format(1)), pytest.warns(UserWarning, match="48 were cut off"):
        penalty.freeze()
    assert penalty.layers()["faint"] == (15, 16)
    assert penalty.sparsity() == 0.5


def test_a_target_that_would_leave_a_layer_nothing_is_refused_with_the_most() -> None:
    model = kx.factorize(mlp(8, 8, 8, 8), rank=1, block=(4, 4))
    with pytest.raises(TrainError, match=r"leaves 2 of 12 groups; needed 3, one at least for each of 3 .*; take 0.75,"):
        BlockSparsity(model, target=0.83)
    assert BlockSparsity(model, target=0.75).target == 0.75
