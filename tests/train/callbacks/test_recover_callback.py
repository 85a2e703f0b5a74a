"""``RecoverCallback`` in a real Trainer, against the loop it stands for; the zeros are as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import mlp
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR
from trainers import assert_same_factors, batches, rows, training_arguments

import kronfx as kx
from kronfx.errors import TrainError

STEPS = 6


class Named(nn.Module):
    """Logits by name, as transformers' models return them, and a loss where there are labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.network(x)
        return {"logits": logits} if labels is None else {"loss": F.mse_loss(logits, labels), "logits": logits}


class Scaled(Named):
    """One that divides by what the Trainer counts, as transformers' own do."""

    def forward(self, x: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        return super().forward(x, labels)


def pruned(kind: type[Named] = Named) -> tuple[Named, Named]:
    torch.manual_seed(0)
    teacher = kind(mlp(16, 24, 24, 8)).eval()
    return teacher, kx.prune(teacher, [x for x, _ in batches(8)], target=0.5, block=(4, 4), refit="exact").train()


def unlabelled() -> list[dict[str, Tensor]]:
    return [{"x": row["x"]} for row in rows(batches(STEPS))]


def trainer(folder: Path, model: nn.Module, data: Any, callback: Any, optimizer: Any, **arguments: Any) -> Any:
    transformers = pytest.importorskip("transformers")

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> None:
            return None

    options = {"max_grad_norm": 0.0, "save_strategy": "no", "max_steps": STEPS, **arguments}
    given = training_arguments(folder, **options)
    optimizers = (optimizer, LambdaLR(optimizer, lambda _: 1.0))
    return InOrder(model, given, train_dataset=data, optimizers=optimizers, callbacks=[callback])


def by_hand(teacher: nn.Module, model: nn.Module, data: Any, accumulate: int) -> nn.Module:
    optimizer = SGD(model.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    alive = {p: p.detach() != 0 for name, p in model.named_parameters() if "weight" in name}
    for step in range(STEPS):
        optimizer.zero_grad()
        for x, _ in data[step * accumulate : (step + 1) * accumulate]:
            with torch.no_grad():
                wanted = teacher(x)["logits"].softmax(-1)
            (-(wanted * model(x)["logits"].log_softmax(-1)).sum(-1).mean() / accumulate).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, mask in alive.items():
                parameter.mul_(mask)
    return model


@pytest.mark.parametrize("kind", [Named, Scaled])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_does_what_the_loop_does(tmp_path: Path, kind: type[Named], accumulate: int) -> None:
    from kronfx.train.callbacks.transformers import RecoverCallback

    data, (teacher, model) = batches(STEPS * accumulate), pruned(kind)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wanted = by_hand(teacher, pruned(kind)[1], data, accumulate)
    optimizer = SGD(model.parameters(), 0.5, momentum=0.9, weight_decay=0.1)
    trainer(
        tmp_path, model, rows(data), RecoverCallback(teacher), optimizer, gradient_accumulation_steps=accumulate
    ).train()
    assert_same_factors(model, wanted)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not model._forward_hooks
    assert kx.inspect(model).zero_blocks == kx.inspect(pruned(kind)[1]).zero_blocks > 0


def test_without_a_teacher_the_loss_is_the_trainers_and_zeros_stay(tmp_path: Path) -> None:
    """Momentum that was gathered before moves entries without a gradient."""
    from kronfx.train.callbacks.transformers import RecoverCallback

    _, model = pruned()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    zero = kx.inspect(model).zero_blocks
    mine = trainer(tmp_path, model, rows(batches(STEPS)), RecoverCallback(), optimizer, logging_steps=1)
    mine.train()
    assert kx.inspect(model).zero_blocks == zero
    x, y = batches(1)[0]
    fresh = pruned()[1]
    assert mine.state.log_history[0]["loss"] == pytest.approx(float(F.mse_loss(fresh(x)["logits"], y)), rel=1e-3)


def test_data_without_labels_and_evaluations_that_have_them(tmp_path: Path) -> None:
    from kronfx.train.callbacks.transformers import RecoverCallback

    teacher, model = pruned()
    data = rows(batches(STEPS))
    optimizer = AdamW(model.parameters(), 0.01)
    mine = trainer(tmp_path, model, unlabelled(), RecoverCallback(teacher), optimizer, remove_unused_columns=False)
    mine.train()
    model.eval()
    loss = mine.evaluate(data)["eval_loss"]
    with torch.no_grad():
        wanted = sum(float(model(x, labels=y)["loss"]) for x, y in batches(STEPS)) / STEPS
    assert loss == pytest.approx(wanted, rel=1e-4)


def test_sentences(tmp_path: Path) -> None:
    from kronfx.train.callbacks.transformers import RecoverCallback

    teacher, model = pruned()
    with pytest.raises(TrainError, match=r"^train: by='feeling'; needed one of 'logits', 'outputs'"):
        RecoverCallback(teacher, by="feeling")  # type: ignore[arg-type]
    with pytest.raises(TrainError, match=r"^train: a list where the model belongs"):
        RecoverCallback([])  # type: ignore[arg-type]
    optimizer = AdamW(model.parameters(), 0.01)
    other = RecoverCallback(Named(mlp(16, 4)))
    with pytest.raises(TrainError, match=r"^train: dict: 4x8 of the model, 4x4 of the teacher; needed outputs with"):
        trainer(tmp_path, model, unlabelled(), other, optimizer, remove_unused_columns=False).train()


def test_a_model_without_zero_blocks_is_told(tmp_path: Path) -> None:
    from kronfx.train.callbacks.transformers import RecoverCallback

    model = pruned()[0]
    optimizer = AdamW(model.parameters(), 0.01)
    with pytest.warns(UserWarning, match="no block of this model is zero, so there is none to keep"):
        trainer(tmp_path, model, rows(batches(STEPS)), RecoverCallback(), optimizer).train()


class Stops(Scaled):
    """A model that is interrupted, as by Ctrl-C, after so many calls."""

    left = -1

    def forward(self, x: Tensor, labels: Tensor | None = None, **kwargs: Any) -> dict[str, Tensor]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().forward(x, labels)


def test_an_interrupted_training_leaves_nothing_on_the_model(tmp_path: Path) -> None:
    """Neither the teacher's loss nor what keeps the zeros from gradients, at the next call already."""
    from kronfx.train.callbacks.transformers import RecoverCallback

    teacher, model = pruned(Stops)
    optimizer = AdamW(model.parameters(), 0.01)
    mine = trainer(tmp_path, model, rows(batches(STEPS)), RecoverCallback(teacher), optimizer)
    model.left = 2
    with pytest.raises(KeyboardInterrupt):
        mine.train()
    x, y = batches(1)[0]
    model.train()
    optimizer.zero_grad()
    loss = model(x, labels=y)["loss"]
    torch.testing.assert_close(loss, F.mse_loss(model(x)["logits"], y))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    loss.backward()
    zero = [p.grad[p == 0] for name, p in model.named_parameters() if "weight" in name and p.grad is not None]
    assert any(bool(part.any()) for part in zero)
