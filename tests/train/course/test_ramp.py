"""``steps=``: the ramp to a target, which blocks it takes, what it says, and that a resumed one comes to the same."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from models import mlp
from torch import Tensor, nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, BlockSparsity, ElasticGroupLasso, GroupLasso, Linear
from kronfx.train.penalties.penalty import Penalty

STEPS = 40
START, END = 8, 28  # a fifth and seven tenths


def factored(seed: int = 0) -> nn.Module:
    """Layers of 24, 36 and 12 blocks."""
    torch.manual_seed(seed)
    return kx.factorize(mlp(16, 24, 24, 8), rank=2, block=(4, 4))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(32, 16, generator=generator)
    return x, x[:, :8] * x[:, 8:].sign()


def backward(model: nn.Module, step: int) -> None:
    x, y = batch(step)
    (model(x) - y).square().mean().backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty, steps: range) -> list[float]:
    """The loop of the documentation; the share of zero blocks after every step."""
    shares = []
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        penalty.step()
        shares.append(penalty.sparsity())
    return shares


def start(seed: int = 0, **options: Any) -> tuple[nn.Module, torch.optim.Optimizer, BlockSparsity]:
    model = factored(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, BlockSparsity(model, optimizer=optimizer, **options)


def zeros_on_the_weights(model: nn.Module) -> float:
    report = kx.inspect(kx.fold(model))
    return report.zero_blocks / report.blocks


@pytest.mark.parametrize("target", [0.25, 0.5, 0.9])
def test_the_share_follows_the_cubic_and_stays(target: float) -> None:
    model, optimizer, penalty = start(target=target, steps=STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about floors
        shares = train(model, optimizer, penalty, range(STEPS))
    count = round(72 * target)
    for step, share in enumerate(shares, 1):
        u = min(1.0, max(0.0, (step - START) / (END - START)))
        assert share == pytest.approx(int(count * (1 - (1 - u) ** 3) + 1e-9) / 72), step
    assert penalty.frozen
    assert zeros_on_the_weights(model) == count / 72


def test_it_is_frozen_at_its_end_and_not_before() -> None:
    model, optimizer, penalty = start(target=0.5, steps=STEPS)
    train(model, optimizer, penalty, range(END - 1))
    assert not penalty.frozen
    train(model, optimizer, penalty, range(END - 1, END))
    assert penalty.frozen
    zero = {name: factors.S == 0 for name, factors in kx.factors(model).items()}
    train(model, optimizer, penalty, range(END, STEPS))
    assert all(torch.equal(factors.S == 0, zero[name]) for name, factors in kx.factors(model).items())
    assert float(penalty.penalty()) == penalty.strength == 0


def test_the_blocks_that_go_are_those_the_loss_feels_least() -> None:
    """The oracle: a twin trained alone until the first cut, its ``(S dL/dS)^2`` by autograd through the weights."""
    twin, optimizer, _ = start(target=0.5, steps=STEPS)
    means: dict[str, Tensor] = {}
    step = 0
    while step < START + 2:
        optimizer.zero_grad()
        backward(twin, step)
        optimizer.step()
        step += 1
        for name, factors in kx.factors(twin).items():
            square = (factors.S.detach() * factors.S.grad).square()
            means[name] = 0.98 * means.get(name, 0) + 0.02 * square
        if step == START + 1:
            break
    first = int(36 * (1 - (1 - 1 / (END - START)) ** 3))
    ranked = sorted((float(value), name, place) for name in means for place, value in enumerate(means[name].flatten()))
    model, optimizer, penalty = start(target=0.5, steps=STEPS)
    train(model, optimizer, penalty, range(START + 1))
    gone = {(name, int(place)) for name, f in kx.factors(model).items() for place in (f.S.flatten() == 0).nonzero()}
    assert len(gone) == first > 2
    assert gone == {(name, place) for _, name, place in ranked[:first]}


def test_targets_of_layers_have_ramps_of_their_own() -> None:
    model, optimizer, penalty = start(target={"0": 0.25, "2": 0.75}, steps=STEPS)
    train(model, optimizer, penalty, range(STEPS))
    assert penalty.layers() == {"0": (6, 24), "2": (27, 36), "4": (0, 12)}


@pytest.mark.parametrize("stop", [4, 15, 35])
@pytest.mark.parametrize("target", [0.5, {"*": 0.25, "2": 0.75}])
def test_resumed_before_on_and_after_the_ramp_it_comes_to_the_same_numbers(stop: int, target: Any) -> None:
    model, optimizer, penalty = start(target=target, steps=STEPS)
    train(model, optimizer, penalty, range(stop))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), penalty.state_dict()))
    train(model, optimizer, penalty, range(stop, STEPS))
    again, second, resumed = start(seed=1, target=target, steps=STEPS)
    again.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    train(again, second, resumed, range(stop, STEPS))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
    assert resumed.frozen


def test_a_state_of_another_length_is_refused_until_it_is_frozen() -> None:
    model, optimizer, penalty = start(target=0.5, steps=STEPS)
    train(model, optimizer, penalty, range(15))
    longer = BlockSparsity(model, target=0.5, optimizer=optimizer, steps=2 * STEPS)
    with pytest.raises(TrainError, match="the saved state is of steps=40, this one of steps=80; needed the same"):
        longer.load_state_dict(penalty.state_dict())
    with pytest.raises(TrainError, match="the saved state is of steps=40, this one of steps=None"):
        BlockSparsity(model, optimizer=optimizer).load_state_dict(penalty.state_dict())
    with pytest.raises(TrainError, match="a saved state without ramp, sensitivity"):
        longer.load_state_dict(BlockSparsity(model, target=0.5).state_dict())
    train(model, optimizer, penalty, range(15, STEPS))
    longer.load_state_dict(penalty.state_dict())
    assert longer.frozen


def test_a_whole_zero_factor_is_a_start_and_no_zero_block() -> None:
    """As ``zero_start`` leaves a map: ``W = 0``, ``S`` and the other factor untouched."""
    model, optimizer, penalty = start(target=0.5, steps=STEPS)
    with torch.no_grad():
        kx.factors(model)["4"].B.zero_()
    assert penalty.layers()["4"] == (12, 12)  # counted on W, as ever
    early = BlockSparsity(model, strength=0.1, optimizer=optimizer)
    early.freeze()
    optimizer.zero_grad()
    backward(model, 0)
    optimizer.step()
    early.step()
    assert bool((kx.factors(model)["4"].S != 0).all())
    assert early.layers()["4"] == (0, 12)
    train(model, optimizer, penalty, range(1, STEPS))
    assert zeros_on_the_weights(model) == 0.5
    assert penalty.layers()["4"][0] < 12


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"steps": 10, "target": 0.5},
            "steps=10, which end before the target can be reached; needed 20 steps at least",
        ),
        ({"steps": 0, "target": 0.5}, "steps=0; needed the optimizer steps of the whole training"),
        ({"steps": 40.0, "target": 0.5}, "steps=40.0; needed the optimizer steps"),
        ({"steps": True, "target": 0.5}, "steps=True; needed the optimizer steps"),
        ({"steps": 40}, "steps=40 and no target; needed the target to be reached by then"),
        ({"steps": 40, "target": 0.5, "strength": 0.2}, "steps=40 and strength=0.2; needed one of the two"),
        (
            {"steps": 40, "target": 0.5, "strength": Linear(0, 1, over=9)},
            "steps=40 and strength=Linear.*one of the two",
        ),
    ],
)
def test_what_does_not_go_together_is_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TrainError, match=text):
        start(**options)


def test_a_training_that_goes_on_past_its_end_keeps_its_zeros_and_says_so_once() -> None:
    model, optimizer, penalty = start(target=0.5, steps=STEPS)
    train(model, optimizer, penalty, range(STEPS))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert set(train(model, optimizer, penalty, range(STEPS, STEPS + 5))) == {0.5}
    assert ["step 41 of a training of steps=40" in str(w.message) for w in caught] == [True]


def test_a_learning_rate_that_restarts_is_said_once() -> None:
    model, optimizer, penalty = start(target=0.5, steps=STEPS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, STEPS // 4)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(STEPS):
            train(model, optimizer, penalty, range(step, step + 1))
            schedule.step()
    assert ["a learning rate that restarts, from 0.000245 to 0.01 at step 11" in str(w.message) for w in caught] == [
        True
    ]


@pytest.mark.parametrize("kind", [GroupLasso, ElasticGroupLasso])
def test_a_group_lasso_shrinks_for_four_tenths_and_freezes_by_itself(kind: type[GroupLasso]) -> None:
    """The same as today's loop, frozen by hand."""
    outcomes = []
    for steps in (100, None):
        torch.manual_seed(0)
        model = mlp(16, 24, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        penalty = kind(model, Blocks(4, 4), 1.0, 0.5, optimizer, steps=steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # short of its target
            train(model, optimizer, penalty, range(40))
            assert penalty.frozen == (steps is not None)
            if steps is None:
                penalty.freeze()
            train(model, optimizer, penalty, range(40, 100))
        outcomes.append(model.state_dict())
        assert penalty.sparsity() == 0.5
    assert all(torch.equal(a, b) for a, b in zip(outcomes[0].values(), outcomes[1].values()))
