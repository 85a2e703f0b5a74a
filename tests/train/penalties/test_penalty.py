"""What every penalty does with a training loop: schedules, skipped, doubled and missing steps, another optimizer."""

from __future__ import annotations

import warnings

import pytest
import torch
import training
from training import LR, assert_equal, assert_said_once, backward, batch, optimizer_of, three_layers, train, values

import kronfx as kx
from kronfx.train import BlockSparsity, Stepped


def test_a_schedule_is_read_at_every_step_of_the_optimizer() -> None:
    model = three_layers()
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
        model = three_layers()
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
    model = three_layers()
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
        model = three_layers()
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
    model = three_layers()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, optimizer=optimizer if optimizer_known else None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(250):
            optimizer.step()
            penalty.penalty()
    assert_said_once(caught, "BlockSparsity.step() was never called")


def test_a_penalty_that_steps_hears_nothing() -> None:
    model = three_layers()
    optimizer = optimizer_of(model)
    penalty = BlockSparsity(model, 0.1, optimizer=optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, penalty, range(120))
        for _ in range(250):
            penalty.penalty()


def test_another_optimizer_midway_is_said_once_and_resumes_when_built_anew() -> None:
    model = three_layers()
    penalty = BlockSparsity(model, 0.5, optimizer=optimizer_of(model))
    train(model, penalty.optimizer, penalty, range(3))
    other = torch.optim.SGD(model.parameters(), lr=LR)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model, other, penalty, range(3, 253))
    assert_said_once(caught, "100 calls of BlockSparsity.step() and its optimizer took no step")
    assert caught[0].filename == training.__file__
    again = BlockSparsity(model, 0.5, optimizer=other)
    again.load_state_dict(penalty.state_dict())
    train(model, other, again, range(253, 256))
    assert again.state_dict()["steps"] == 6
