"""What every penalty does with a training loop: schedules, targets, skipped and doubled steps, freezing, resuming."""

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
from kronfx.layers import KroneckerLinear
from kronfx.train import Blocks, BlockSparsity, Cosine, GroupLasso, Linear, MagnitudePruning, Stepped
from kronfx.train.penalties.penalty import Penalty

LR = 0.02


def factored(seed: int = 0) -> nn.Module:
    """Three layers of 24, 36 and 12 blocks, of sizes that differ."""
    torch.manual_seed(seed)
    model = kx.factorize(mlp(16, 24, 24, 8), rank=2, block=(4, 4))
    for factors in kx.factors(model).values():
        nn.init.uniform_(factors.S, 0.2, 1.0)
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 16, generator=generator), torch.randn(8, 8, generator=generator)


def backward(model: nn.Module, step: int) -> None:
    x, y = batch(step)
    (model(x) - y).square().mean().backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty, steps: range) -> None:
    """The loop of the documentation."""
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        penalty.step()


def idle(optimizer: torch.optim.Optimizer, penalty: Penalty, steps: int) -> None:
    """Steps of an optimizer that has no gradient."""
    for _ in range(steps):
        optimizer.step()
        penalty.step()


def assert_said_once(caught: list[warnings.WarningMessage], text: str) -> None:
    assert [text in str(warning.message) for warning in caught] == [True]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def build(kind: str, model: nn.Module, optimizer: torch.optim.Optimizer | None, **options: Any) -> Penalty:
    if kind == "factored":
        return BlockSparsity(model, optimizer=optimizer, **options)
    if kind == "lasso":
        return GroupLasso(model, Blocks(4, 4), optimizer=optimizer, **options)
    return MagnitudePruning(model, Blocks(4, 4), Stepped(0.0, 0.2, every=4, end=0.6), optimizer)


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return factored() if kind == "factored" else mlp(16, 24, 24, 8)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=LR)


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


def test_a_schedule_is_read_at_every_step_of_the_optimizer() -> None:
    model = factored()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    penalty = BlockSparsity(model, Stepped(0.5, add=0.25, every=2), optimizer=optimizer)
    strengths = []
    for _ in range(5):
        strengths.append(penalty.strength)
        wanted = [(f.S.abs() - LR * strengths[-1]).clamp_min(0) for f in kx.factors(model).values()]
        optimizer.step()  # no gradient: nothing but the shrinking moves S
        penalty.step()
        for factors, S in zip(kx.factors(model).values(), wanted):
            torch.testing.assert_close(factors.S, S / S.square().mean().sqrt())  # the scale, held
    assert strengths == [0.5, 0.5, 0.75, 0.75, 1.0]


@pytest.mark.parametrize("accumulate", [2, 3])
def test_while_gradients_accumulate_nothing_shrinks(accumulate: int) -> None:
    outcomes = []
    for every_batch in (False, True):
        model = factored()
        optimizer = optimizer_of(model)
        penalty = BlockSparsity(model, 1.0, optimizer=optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for step in range(4 * accumulate):
                backward(model, step)
                last = step % accumulate == accumulate - 1
                if last:
                    optimizer.step()
                if last or every_batch:
                    penalty.step()
                if last:
                    optimizer.zero_grad()
        outcomes.append(values(model))
    assert_equal(*outcomes)


def test_a_step_that_the_gradient_scaler_skips_is_skipped() -> None:
    model = factored()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 5.0, optimizer=optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    moved = []
    for step in range(4):
        before = values(model)
        optimizer.zero_grad()
        x, y = batch(step)
        loss = (model(x) - y).square().mean()
        scaler.scale(loss * float("inf") if step == 1 else loss).backward()
        scaler.step(optimizer)
        scaler.update()
        penalty.step()
        moved.append(any(not torch.equal(before[name], value) for name, value in values(model).items()))
    assert moved == [True, False, True, True]


def test_stepped_twice_for_one_gradient_the_second_does_nothing_and_says_so_once() -> None:
    for optimizer_known in (True, False):
        model = factored()
        optimizer = optimizer_of(model)
        penalty = BlockSparsity(model, 5.0, optimizer=optimizer if optimizer_known else None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(3):
                train(model, optimizer, penalty, range(step, step + 1))
                once = values(model)
                penalty.step()
                assert_equal(values(model), once)
        assert_said_once(caught, "came twice for one gradient")


@pytest.mark.parametrize("optimizer_known", [True, False])
def test_never_stepped_it_says_so_once(optimizer_known: bool) -> None:
    model = factored()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, optimizer=optimizer if optimizer_known else None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(250):
            optimizer.step()
            penalty.penalty()
    assert_said_once(caught, "BlockSparsity.step() was never called")


def test_a_penalty_that_steps_hears_nothing() -> None:
    model = factored()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 0.1, optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, penalty, range(120))
        for _ in range(250):
            penalty.penalty()


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


def test_each_layer_reaches_its_own_target_and_an_unnamed_one_keeps_its_blocks() -> None:
    model = factored()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 1.0, {"*": 0.25, "2": 0.75}, optimizer)
    train(model, optimizer, penalty, range(400))
    assert penalty.layers() == {"0": (6, 24), "2": (27, 36), "4": (3, 12)}

    model = factored()
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
        BlockSparsity(factored(), target={"fc1": 0.5})
    with pytest.raises(TrainError, match="target names 1; needed what it can act on: 0, 2, 4"):
        BlockSparsity(factored(), target={1: 0.5})
    with pytest.raises(TrainError, match="a target for no layer; needed one for some of 0, 2, 4"):
        BlockSparsity(factored(), target={})
    with pytest.raises(TrainError, match="target=0.001 of 72 groups; .*; take 0.0139$"):  # and not 0
        BlockSparsity(factored(), target=0.001)


def test_a_target_and_a_schedule_are_one_too_many() -> None:
    with pytest.raises(TrainError, match="a target and a schedule of the strength"):
        BlockSparsity(factored(), Cosine(0.0, 1.0, over=10), target=0.5)


def test_a_target_out_of_reach_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronfx.train.course.loop.STALLED", 50)
    model = factored()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    penalty = BlockSparsity(model, target=0.5, optimizer=optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        idle(optimizer, penalty, 120)
    assert_said_once(caught, "0 of 72 groups are zero (a learning rate of 0); the target 0.5 is out of reach")


@pytest.mark.parametrize("target", [0.5, {"0": 0.25, "4": 0.75}])
def test_frozen_short_of_its_target_it_cuts_the_smallest_off_and_says_so(target: Any) -> None:
    """Equal sizes too: every ``S`` starts at 1, so that only some of those that tie may go."""
    model = factored()
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


def test_a_layer_that_loses_all_its_blocks_is_named_once() -> None:
    model = factored()
    nn.init.constant_(kx.factors(model)["4"].S, 1e-9)
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 0.01, optimizer=optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        idle(optimizer, penalty, 3)
    assert_said_once(caught, "4 (8x24): all of its groups are zero")


def test_a_state_of_another_plan_or_target_is_refused() -> None:
    state = BlockSparsity(factored(), target=0.5).state_dict()
    torch.manual_seed(0)
    other = kx.factorize(mlp(16, 24, 24, 8), rank=2, block={"0": (4, 4), "2": (2, 4), "4": (4, 4)})
    with pytest.raises(TrainError, match=r"train: 2: the saved state has \[6, 6, 4, 4, 2, 36\], this model \[12, 6"):
        BlockSparsity(other, target=0.5).load_state_dict(state)
    with pytest.raises(TrainError, match="targets for the whole model, this one for nothing"):
        BlockSparsity(factored()).load_state_dict(state)
    smaller = nn.Sequential(*list(factored())[:3])
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
    for optimizer in ("sgd", torch.optim.SGD, factored().parameters()):
        with pytest.raises(TrainError, match="where the optimizer belongs; needed a torch.optim.Optimizer"):
            BlockSparsity(factored(), optimizer=optimizer)


def test_frozen_zeros_of_a_layer_that_no_longer_trains_are_refused() -> None:
    saved = BlockSparsity(factored())
    saved.freeze()
    model = factored()
    kx.factors(model)["2"].S.requires_grad_(False)
    penalty = BlockSparsity(model)
    with pytest.raises(TrainError, match=r"train: 2 \(24x24\): zeros frozen in training"):
        penalty.load_state_dict(saved.state_dict())
    assert not penalty.frozen


def test_another_optimizer_midway_is_said_once_and_resumes_when_built_anew() -> None:
    model = factored()
    penalty = BlockSparsity(model, 0.5, optimizer=optimizer_of(model))
    train(model, penalty.optimizer, penalty, range(3))
    other = torch.optim.SGD(model.parameters(), lr=LR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, other, penalty, range(3, 253))
    assert_said_once(caught, "100 calls of BlockSparsity.step() and its optimizer took no step")
    assert caught[0].filename == __file__
    again = BlockSparsity(model, 0.5, optimizer=other)
    again.load_state_dict(penalty.state_dict())
    train(model, other, again, range(253, 256))
    assert again.state_dict()["steps"] == 6
