"""Every row of the table of penalties keeps the interface: exported, counted, watched, resumed, frozen."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch
from models import mlp
from torch import nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, History, PatternSelection
from kronfx.train.penalties import PENALTIES
from kronfx.train.penalties.grouped import GroupPenalty
from kronfx.train.penalties.penalty import Penalty

REQUIRED = {"groups": Blocks(4, 4), "share": 0.25}  # what some of them cannot do without
every = pytest.mark.parametrize("kind", PENALTIES)


def model() -> nn.Module:
    """A factored layer of 24 blocks and two dense ones: each penalty finds something to act on."""
    torch.manual_seed(0)
    mixed = kx.factorize(mlp(16, 24, 24, 8), include="0", rank=2, block=(4, 4))
    nn.init.uniform_(kx.factors(mixed)["0"].S, 0.05, 1.0)
    return mixed


def build(kind: type[GroupPenalty], network: nn.Module, optimizer: torch.optim.Optimizer) -> GroupPenalty:
    names = inspect.signature(kind).parameters
    options = {name: REQUIRED[name] for name in names if name in REQUIRED}
    strength = {"strength": 5.0} if "strength" in names else {}
    return kind(network, optimizer=optimizer, **options, **strength)


def started(kind: type[GroupPenalty]) -> tuple[nn.Module, torch.optim.Optimizer, GroupPenalty]:
    network = model()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    return network, optimizer, build(kind, network, optimizer)


def train(network: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        ((network(x) - x[:, :8]).square().mean() + penalty.penalty()).backward()
        optimizer.step()
        penalty.step()


@every
def test_a_row_is_exported_and_documented(kind: type[GroupPenalty]) -> None:
    assert getattr(kx.train, kind.__name__) is kind
    assert kind.__name__ in kx.train.__all__
    assert "Raises TrainError" in (inspect.getdoc(kind) or "") or kind.__base__ in PENALTIES


@every
def test_it_zeroes_groups_and_counts_them(kind: type[GroupPenalty]) -> None:
    network, optimizer, penalty = started(kind)
    train(network, optimizer, penalty, range(10))
    assert penalty.optimizer is optimizer
    zero, groups = (sum(column) for column in zip(*penalty.layers().values()))
    assert penalty.sparsity() == zero / groups > 0
    assert not penalty.penalty().requires_grad


@every
def test_resumed_it_comes_to_the_same_numbers(kind: type[GroupPenalty]) -> None:
    network, optimizer, penalty = started(kind)
    train(network, optimizer, penalty, range(5))
    saved = copy.deepcopy((network.state_dict(), optimizer.state_dict(), penalty.state_dict()))
    train(network, optimizer, penalty, range(5, 10))
    again, second, resumed = started(kind)
    for each, state in zip((again, second, resumed), saved):
        each.load_state_dict(state)
    train(again, second, resumed, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values()))


@every
def test_what_is_no_state_is_refused_and_changes_nothing(kind: type[GroupPenalty]) -> None:
    network, optimizer, penalty = started(kind)
    train(network, optimizer, penalty, range(3))
    before = penalty.state_dict()
    for lacking in before:
        rest = {key: value for key, value in before.items() if key != lacking}
        with pytest.raises(TrainError, match=f"a saved state without {lacking}; needed one with parts, steps"):
            penalty.load_state_dict(rest)
    assert penalty.state_dict()["steps"] == before["steps"] == 3


@every
def test_frozen_it_keeps_its_zeros_and_charges_nothing(kind: type[GroupPenalty]) -> None:
    network, optimizer, penalty = started(kind)
    train(network, optimizer, penalty, range(10))
    penalty.freeze()
    before = penalty.layers()
    train(network, optimizer, penalty, range(10, 15))
    assert penalty.frozen
    assert penalty.layers() == before
    assert float(penalty.penalty()) == 0


@every
def test_its_history_is_written(kind: type[GroupPenalty], tmp_path: Path) -> None:
    network, optimizer, penalty = started(kind)
    train(network, optimizer, penalty, range(2))
    line = History(tmp_path / "run.jsonl").record(2, penalty)
    assert line["sparsity"] == penalty.sparsity()
    assert line["strength"] == penalty.strength


def test_a_selection_is_a_penalty_and_nothing_else_is(tmp_path: Path) -> None:
    selection = PatternSelection(kx.factorize(mlp(8, 8), rank=1, block=[(2, 2), (4, 4)]))
    with torch.no_grad():
        kx.factors(selection.model)["0.1"].S[0] = 0
    assert selection.sparsity() == 2 / 20
    history = History(tmp_path / "run.jsonl")
    assert history.record(0, selection)["sparsity"] == 2 / 20
    with pytest.raises(TrainError, match="a Linear where the penalty belongs; needed one of BlockSparsity, GroupLasso"):
        history.record(1, nn.Linear(2, 2))  # type: ignore[arg-type]
