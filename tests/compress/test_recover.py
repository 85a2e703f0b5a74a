"""``kronfx.recover``: nearer to the teacher, zero blocks still zero, whatever the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import attention, convolutions, mlp
from torch import Tensor, nn
from torch.optim import SGD, AdamW

import kronfx as kx
from kronfx.compress.recover import default_rate
from kronfx.layers import folded_layers


def batches(n: int = 16, count: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(64, n, generator=generator) for _ in range(count)]


def used_up() -> Any:
    generator = iter(batches())
    list(generator)
    return generator


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: layer.zero_blocks() for name, layer in folded_layers(model).items()}


@torch.no_grad()
def distance(model: nn.Module, teacher: nn.Module, data: list[Tensor]) -> float:
    return float(sum((model(x) - teacher(x)).square().mean() for x in data))


@pytest.mark.parametrize(
    "optimizer", [None, partial(SGD, lr=0.05, momentum=0.9), partial(AdamW, lr=1e-3, weight_decay=0.1)]
)
@pytest.mark.parametrize("by", ["logits", "outputs"])
def test_nearer_to_the_teacher_and_just_as_sparse(optimizer: Any, by: Any) -> None:
    torch.manual_seed(0)
    teacher, x = mlp(16, 32, 8), batches()
    pruned = kx.prune(teacher, x, target=0.75, block=(4, 4), refit="exact")
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    won = kx.recover(pruned, teacher, x, steps=60, by=by, optimizer=optimizer)
    with torch.no_grad():
        far, near = (
            sum(F.kl_div(m(b).log_softmax(-1), teacher(b).softmax(-1), reduction="batchmean") for b in x)
            if by == "logits"
            else distance(m, teacher, x)
            for m in (pruned, won)
        )
    assert near < far
    assert zeros(won) == zeros(pruned) != {}
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())
    assert all(p.grad is None for m in (pruned, teacher, won) for p in m.parameters())


@pytest.mark.parametrize(
    ("model", "batch"), [(attention, lambda: torch.randn(8, 5, 16)), (convolutions, lambda: torch.randn(4, 3, 5, 5))]
)
def test_spellings(model: Callable[[], nn.Module], batch: Callable[[], Tensor]) -> None:
    torch.manual_seed(0)
    teacher, x = model().eval(), [batch() for _ in range(3)]
    pruned = kx.prune(teacher, x, target=0.5, block=(4, 2))
    won = kx.recover(pruned, teacher, x, steps=20, by="outputs")
    assert zeros(won) == zeros(pruned)
    assert distance(won, teacher, x) < distance(pruned, teacher, x)


def test_a_loss_of_the_users_needs_no_teacher_and_factored_zeros_stay() -> None:
    torch.manual_seed(0)
    model, x = kx.factorize(mlp(16, 32, 8), block=(4, 4), zero_start=None), batches()
    factors = kx.factors(model)
    with torch.no_grad():
        factors["0"].S[0, 1] = 0
    won = kx.recover(model, None, x, steps=20, loss=lambda m, b: m(b).square().mean(), lr=1e-2)
    assert not kx.factors(won)["0"].S[0, 1]
    assert not torch.equal(kx.factors(won)["0"].S, factors["0"].S)


def test_the_rate_by_the_share_of_zero_blocks() -> None:
    assert [default_rate(share) for share in (0.0, 0.5, 0.75, 0.9, 1.0)] == pytest.approx(
        [2e-4, 2e-4, 3e-4, 1e-3, 1e-3]
    )
    assert 3e-4 < default_rate(0.8) < 1e-3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "steps=0; needed a positive number of steps"),
        ({"lr": -1.0}, "lr=-1.0; needed a positive learning rate"),
        ({"by": "feeling"}, "by='feeling'; needed one of 'logits', 'outputs'"),
        ({"loss": 3}, "loss of type int; needed a function"),
        ({"loss": lambda m, b: m(b).detach().mean()}, "loss= that returns a tensor without a gradient"),
        ({"loss": lambda m, b: m(b).mean() * torch.nan}, "a loss of nan at step 0; needed a finite one"),
        ({"teacher": mlp(16, 4)}, "outputs of 64x8 and 64x4 of model and teacher; needed the same"),
        ({"teacher": None}, "a NoneType where the model belongs"),
        ({"batches": []}, "no batch; needed calibration data"),
        ({"batches": used_up()}, r"no batch \(a generator is read once: it may have been used up\)"),
        ({"batches": [torch.full((4, 16), torch.nan)]}, "a loss of nan at step 0; needed a finite one"),
        (
            {"optimizer": lambda parameters: parameters},
            "optimizer= that returns a list; needed an optimizer of",
        ),
        ({"batches": batches(5)}, "a batch that the model does not take"),
        ({"model": mlp(16, 8).requires_grad_(False)}, "a model without a trainable parameter"),
    ],
)
def test_a_sentence(options: dict[str, Any], sentence: str) -> None:
    given = {"model": mlp(16, 8), "teacher": mlp(16, 8), "batches": batches(), **options}
    with pytest.raises(kx.KronfxError, match=f"^recover: {sentence}"):
        kx.recover(given.pop("model"), given.pop("teacher"), given.pop("batches"), **given)


def test_a_frozen_layer_stays_as_it_is() -> None:
    teacher, x = mlp(16, 32, 8), batches()
    teacher[0].requires_grad_(False)
    pruned = kx.prune(teacher, x, target=0.5, block=(4, 4))
    won = kx.recover(pruned, teacher, x, steps=5)
    assert torch.equal(won[0].weight, pruned[0].weight)
    assert not torch.equal(won[2].weight, pruned[2].weight)
    assert not won[0].weight.requires_grad


def test_an_interruption_leaves_both_models_as_they_were() -> None:
    teacher, x = mlp(16, 32, 8).train(), batches()
    pruned = kx.prune(teacher, x, target=0.5, block=(4, 4))
    before = {name: value.clone() for name, value in pruned.state_dict().items()}

    class Interrupted(SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kx.recover(pruned, teacher, x, optimizer=partial(Interrupted, lr=0.1))
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())
    assert all(p.grad is None and p.requires_grad for model in (teacher, pruned) for p in model.parameters())
    assert all(model.training for model in (teacher, pruned))
    assert not any(p._backward_hooks for p in pruned.parameters())
