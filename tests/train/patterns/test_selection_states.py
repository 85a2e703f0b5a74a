"""A selection saved, resumed, and refused where it does not fit."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from models import mlp
from torch import nn
from training import fit, idle_optimizer, teacher, with_candidates

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import candidates_of
from kronfx.train import LayerwisePatternSelection, PatternSelection, Stepped


def test_a_resumed_selection_comes_to_the_same_numbers(tmp_path: Path) -> None:
    W = teacher((4, 4), 0)

    def start(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer, PatternSelection]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
        group = Stepped(0.05, add=0.01, every=20)
        return model, optimizer, PatternSelection(model, group=group, optimizer=optimizer)

    model, optimizer, selection = start(with_candidates(seed=1))
    fit(model, W, selection, optimizer, 30)
    kx.save(model, tmp_path / "saved")
    state = selection.state_dict()
    other, its_optimizer, its_selection = start(kx.load(nn.Sequential(nn.Linear(16, 16)), tmp_path / "saved"))
    its_selection.load_state_dict(state)
    for each in ((model, selection, optimizer), (other, its_selection, its_optimizer)):
        fit(each[0], W, each[1], each[2], 30)
    assert selection.norms() == its_selection.norms()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values()))
    with pytest.raises(TrainError, match="the same candidates"):
        PatternSelection(with_candidates(rank=2)).load_state_dict(state)


def test_what_is_refused() -> None:
    with pytest.raises(TrainError, match="no layer of the model has candidates"):
        PatternSelection(kx.factorize(mlp(8, 8), rank=1, block=(2, 2)))
    frozen = with_candidates()
    candidates_of(frozen[0])[1].S.requires_grad_(False)
    with pytest.raises(TrainError, match="S of a candidate is frozen"):
        PatternSelection(frozen)
    with pytest.raises(TrainError, match="in no parameter group"):
        PatternSelection(with_candidates(), optimizer=torch.optim.SGD(mlp(2, 2).parameters(), lr=0.1))
    for growth in (0.5, "1", None, True):
        with pytest.raises(TrainError, match="growth="):
            PatternSelection(with_candidates(), growth=growth)
    with pytest.raises(TrainError, match="candidates on the meta device; needed values"):
        PatternSelection(with_candidates().to("meta"))
    with pytest.raises(TrainError, match="group=-1.0"):
        PatternSelection(with_candidates(), group=-1.0)
    model = with_candidates()
    selection = PatternSelection(model)
    selection.penalty()
    with pytest.raises(TrainError, match="no optimizer has stepped the parameters that PatternSelection acts on"):
        selection.step()
    with torch.no_grad():
        candidates_of(model[0])[0].A.fill_(float("nan"))
    selection.penalty()
    idle_optimizer(model).step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TrainError, match="NaN or infinite factors"):
        selection.step()
    assert all(a.equal(b) for name, a in before.items() if not name.endswith("0.A") for b in [model.state_dict()[name]])
    zero = with_candidates()
    zero.load_state_dict({name: torch.zeros_like(value) for name, value in zero.state_dict().items()})
    with pytest.raises(TrainError, match="finite ones that are not all zero"):
        PatternSelection(zero)


def _two() -> nn.Sequential:
    torch.manual_seed(0)
    return kx.factorize(mlp(16, 16, 8), rank=1, block=[(2, 2), (4, 4)])


def test_the_norms_of_layers_that_choose_alone_have_names_of_their_own() -> None:
    assert list(LayerwisePatternSelection(_two()).norms()) == ["0 2x2", "0 4x4", "2 2x2", "2 4x4"]
    assert list(PatternSelection(_two()).norms()) == ["2x2", "4x4"]


def test_a_state_of_another_kind_of_choice_or_none_is_refused() -> None:
    state = LayerwisePatternSelection(_two()).state_dict()
    with pytest.raises(TrainError, match="a saved state of other choices; .* LayerwisePatternSelection"):
        PatternSelection(_two()).load_state_dict(state)
    for none in (None, {"sites": state["sites"]}):
        with pytest.raises(TrainError, match="a saved state without .*contests; needed one with sites"):
            PatternSelection(_two()).load_state_dict(none)


def test_a_resumed_selection_that_steps_is_not_told_that_it_never_did() -> None:
    model, W = with_candidates(), teacher((2, 2), 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    selection = PatternSelection(model, optimizer=optimizer)
    selection.load_state_dict(PatternSelection(with_candidates()).state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model, W, selection, optimizer, 110)
