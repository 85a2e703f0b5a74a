"""Which optimizer steps a penalty: found by itself, below its wrappers, in copies; or a sentence."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from typing import Any

import pytest
import torch
from models import mlp
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, BlockSparsity, GroupLasso
from kronfx.train.penalties.penalty import Penalty

STEPS = 30


def factored() -> nn.Module:
    torch.manual_seed(0)
    return kx.factorize(mlp(16, 24, 8), rank=2, block=(4, 4))


def train(model: nn.Module, optimizer: Any, penalty: Penalty, steps: range) -> list[Tensor]:
    """The loop of the documentation; what it comes to."""
    for step in steps:
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :8]).square().mean().backward()
        optimizer.step()
        penalty.step()
    return [p.detach().clone() for p in model.parameters()]


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """But for rounding: once zeros are frozen each model's own clock says whether skipping them pays."""
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, wanted, strict=True))


OPTIONS: list[dict[str, Any]] = [
    {"strength": 5.0},
    {"strength": 5.0, "target": 0.5},
    {"target": 0.5, "steps": STEPS},
]


def outcome(options: dict[str, Any], given: bool) -> list[Tensor]:
    model = factored()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    penalty = BlockSparsity(model, **options, optimizer=optimizer if given else None)
    found = train(model, optimizer, penalty, range(STEPS))
    assert penalty.optimizer is optimizer
    assert penalty.sparsity() > 0.1
    return found


@pytest.mark.parametrize("options", OPTIONS)
def test_without_an_optimizer_the_one_that_steps_is_found(options: dict[str, Any]) -> None:
    assert equal(outcome(options, given=False), outcome(options, given=True))


def test_the_search_ends_and_leaves_no_hook() -> None:
    gc.collect()
    before = dict(_global_optimizer_post_hooks)
    model = factored()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    penalty, forgotten = BlockSparsity(model), BlockSparsity(model)
    assert len(_global_optimizer_post_hooks) == len(before) + 2
    other = mlp(4, 4)
    torch.optim.SGD(other.parameters(), lr=9.0).step()
    assert penalty.optimizer is None
    train(model, optimizer, penalty, range(1))
    del forgotten
    assert _global_optimizer_post_hooks == before


def test_a_step_without_any_optimizer_is_told() -> None:
    model = factored()
    stale = torch.optim.SGD(mlp(16, 24, 8).parameters(), lr=0.1)
    for penalty in (
        BlockSparsity(model, 0.5),
        BlockSparsity(model, target=0.5),
        BlockSparsity(model, target=0.5, steps=STEPS),
        GroupLasso(mlp(8, 8), Blocks(2, 2)),
    ):
        before = copy.deepcopy(model.state_dict())
        stale.step()
        with pytest.raises(TrainError, match="no optimizer has stepped the parameters that .* acts on; needed one"):
            penalty.step()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_step_that_a_scaler_skipped_before_the_optimizer_is_known_is_no_error() -> None:
    model = factored()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    penalty = BlockSparsity(model, 0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 16)).sum() * (float("inf") if step == 0 else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        penalty.step()
    assert penalty.state_dict()["steps"] == 2


def test_an_optimizer_as_old_as_the_dense_model_is_told() -> None:
    dense = mlp(16, 24, 8)
    optimizer = torch.optim.Adam(dense.parameters())
    model = kx.factorize(dense, rank=2, block=(4, 4))
    with pytest.raises(TrainError, match="in no parameter group of the optimizer; .*; build the optimizer after fac"):
        BlockSparsity(model, target=0.5, optimizer=optimizer, steps=STEPS)


class Lookahead:
    """Fast steps of another optimizer, and every fifth time halfway back: no ``torch.optim.Optimizer``."""

    def __init__(self, base_optimizer: torch.optim.Optimizer) -> None:
        self.base_optimizer, self.param_groups, self.taken = base_optimizer, base_optimizer.param_groups, 0
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    def zero_grad(self) -> None:
        self.base_optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        self.base_optimizer.step()
        self.taken += 1
        if self.taken % 5 == 0:
            for group, slow in zip(self.param_groups, self.slow):
                for p, old in zip(group["params"], slow):
                    old.lerp_(p, 0.5)
                    p.copy_(old)


class Alone:
    """Steps on its own account: parameter groups, and no hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.param_groups = [{"params": list(model.parameters()), "lr": 0.02}]

    def zero_grad(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for p in self.param_groups[0]["params"]:
            p.add_(p.grad, alpha=-0.02)


def test_a_wrapper_is_unwrapped_and_what_has_no_hooks_is_taken_by_its_groups() -> None:
    model = factored()
    inner = torch.optim.SGD(model.parameters(), lr=0.02)
    penalty = BlockSparsity(model, 5.0, optimizer=Lookahead(inner))
    assert penalty.optimizer is inner
    train(model, Lookahead(inner), penalty, range(10))
    assert penalty.state_dict()["steps"] == 10

    model, twin = factored(), factored()
    alone, sgd = Alone(model), torch.optim.SGD(twin.parameters(), lr=0.02)
    found = train(model, alone, BlockSparsity(model, 5.0, optimizer=alone), range(10))
    assert equal(found, train(twin, sgd, BlockSparsity(twin, 5.0, optimizer=sgd), range(10)))


def test_accelerates_optimizer_is_unwrapped() -> None:
    accelerate = pytest.importorskip("accelerate")
    outcomes = []
    for wrapped in (True, False):
        model = factored()
        optimizer: Any = torch.optim.Adam(model.parameters(), lr=0.02)
        if wrapped:
            model, optimizer = accelerate.Accelerator(cpu=True).prepare(model, optimizer)
        penalty = BlockSparsity(model, target=0.5, optimizer=optimizer, steps=STEPS)
        outcomes.append(train(model, optimizer, penalty, range(STEPS)))
        assert penalty.frozen
    assert equal(*outcomes)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_as_the_original_does(options: dict[str, Any], given: bool, how: Any) -> None:
    for begun in (0, 12):
        model = factored()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        penalty = BlockSparsity(model, **options, optimizer=optimizer if given else None)
        train(model, optimizer, penalty, range(begun))
        twins = how((model, optimizer, penalty))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = train(*twins, range(begun, STEPS))
            assert equal(found, train(model, optimizer, penalty, range(begun, STEPS)))
        assert twins[2].optimizer is twins[1]
