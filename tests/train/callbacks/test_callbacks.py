"""The callbacks against the loop they stand for, in real trainers; the blocks counted on the folded weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from trainers import (
    QUIET,
    Batches,
    assert_same_factors,
    batches,
    factored,
    lightning_fit,
    lightning_module,
    loader,
    transformers_trainer,
)

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Linear
from kronfx.train.callbacks.driver import SparsityDriver

STEPS, LEARNING_RATE = 8, 0.02
Options = dict[str, Any]
OPTIONS: tuple[Options, ...] = (
    {"strength": 10.0},
    {"strength": Linear(0.0, 60.0, over=8)},
    {"strength": 15.0, "target": 0.3},
    {"strength": 40.0, "target": {"*2": 0.3, "*4": 0.5}, "freeze_at": 0.5},
)


def spread() -> nn.Module:
    """The blocks of each layer spread in size, so that some of them vanish within a few steps."""
    model = factored()
    for factors in kx.factors(model).values():
        nn.init.uniform_(factors.S, 0.05, 1.0)
    return model


def decay(step: int) -> float:
    """The learning rate halves every second step: a callback that is one step late shrinks by another amount."""
    return 0.5 ** (step // 2)


def by_hand(data: Batches, accumulate: int, options: Options) -> nn.Module:
    """The loop the documentation of BlockSparsity shows."""
    options = dict(options)
    freeze_at: float = options.pop("freeze_at", 2.0)
    model = spread()
    optimizer = AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0)
    scheduler = LambdaLR(optimizer, decay)
    sparsity = kx.train.BlockSparsity(model, **options, optimizer=optimizer)
    for step in range(STEPS):
        optimizer.zero_grad()
        for x, y in data[step * accumulate : (step + 1) * accumulate]:
            (F.mse_loss(model(x), y) / accumulate).backward()
        optimizer.step()
        sparsity.step()
        if step / STEPS >= freeze_at and not sparsity.frozen:
            sparsity.freeze()
        scheduler.step()
    return model


def share_of_zero_blocks(model: nn.Module) -> float:
    """Counted tile by tile on the folded weights."""
    tiles = [
        bool((tile == 0).all())
        for layer in kx.fold(model).modules()
        if isinstance(layer, nn.Linear)
        for rows in layer.weight.split(4, 0)
        for tile in rows.split(4, 1)
    ]
    return sum(tiles) / len(tiles)


def by_transformers(folder: Path, options: Options, data: Batches, **arguments: Any) -> Any:
    arguments |= {"max_steps": STEPS, "logging_steps": 1}
    return transformers_trainer(folder, spread(), data, LEARNING_RATE, decay, options, **arguments)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_transformers_trainer_does_what_the_loop_does(tmp_path: Path, options: Options, accumulate: int) -> None:
    data = batches(STEPS * accumulate)
    trainer = by_transformers(tmp_path, options, data, save_strategy="no", gradient_accumulation_steps=accumulate)
    trainer.train()
    assert_same_factors(trainer.model.network, by_hand(data, accumulate, options))
    logged = [log["block_sparsity"] for log in trainer.state.log_history]
    assert len(logged) == STEPS + 1  # every step, and the summary
    assert logged[-1] == share_of_zero_blocks(trainer.model) > 0.1


def test_a_resumed_transformers_trainer_goes_on_from_the_strength_it_had_found(tmp_path: Path) -> None:
    options, data = {"strength": 0.5, "target": 0.9}, batches(STEPS)
    whole = by_transformers(tmp_path / "whole", options, data, save_strategy="steps", save_steps=4)
    whole.train()
    again = by_transformers(tmp_path / "again", options, data, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    strengths = [[log["block_strength"] for log in trainer.state.log_history] for trainer in (whole, again)]
    assert strengths[0] == strengths[1]
    assert strengths[0][-1] > strengths[0][0] > 0.5
    assert_same_factors(again.model, whole.model)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_lightning_trainer_does_what_the_loop_does(tmp_path: Path, options: Options, accumulate: int) -> None:
    data = batches(STEPS * accumulate)
    module = lightning_module(spread(), LEARNING_RATE, decay)
    trainer = lightning_fit(tmp_path, module, data, options, max_steps=STEPS, accumulate_grad_batches=accumulate)
    assert_same_factors(module.network, by_hand(data, accumulate, options))
    assert float(trainer.callback_metrics["block_sparsity"]) == pytest.approx(share_of_zero_blocks(module), rel=1e-6)
    assert share_of_zero_blocks(module) > 0.1


def test_a_resumed_lightning_trainer_goes_on_from_the_strength_it_had_found(tmp_path: Path) -> None:
    options, data = {"strength": 0.5, "target": 0.9}, batches(4)
    module = lightning_module(spread(), LEARNING_RATE, decay)
    first = lightning_fit(tmp_path, module, data, options, max_steps=4)
    first.save_checkpoint(tmp_path / "half.ckpt")
    found = float(first.callback_metrics["block_strength"])
    module = lightning_module(spread(), LEARNING_RATE, decay)
    second = lightning_fit(tmp_path, module, data, options, tmp_path / "half.ckpt", max_steps=5, max_epochs=2)
    assert found > 0.5
    assert float(second.callback_metrics["block_strength"]) == pytest.approx(found * 1.005, rel=1e-6)


def test_a_lightning_module_with_two_optimizers_is_told_what_to_do(tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch")
    from kronfx.train.callbacks.lightning import BlockSparsityCallback

    class Two(pl.LightningModule):
        automatic_optimization = False

        def __init__(self) -> None:
            super().__init__()
            self.network = factored()

        def training_step(self, batch: list[Tensor]) -> None: ...

        def configure_optimizers(self) -> Any:
            return [AdamW(self.parameters()), AdamW(self.parameters())]

    trainer = pl.Trainer(max_steps=1, default_root_dir=tmp_path, callbacks=[BlockSparsityCallback()], **QUIET)
    with pytest.raises(TrainError, match="2 optimizers; needed one, which trains every S; use"):
        trainer.fit(Two(), loader(batches(1)))


def test_an_interrupted_lightning_training_leaves_the_optimizer_as_it_was(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch")
    module, optimizers = lightning_module(spread(), LEARNING_RATE, decay), []
    taken = module.training_step

    def proximal(optimizer: Any) -> list[Any]:
        hooks = optimizer._optimizer_step_post_hooks.values()
        return [hook for hook in hooks if "BlockSparsityCallback" in getattr(hook, "__qualname__", "")]

    def training_step(batch: list[Tensor]) -> Any:
        if not optimizers:
            optimizers.append(module.trainer.optimizers[0])
            assert proximal(optimizers[0])
            return taken(batch)
        raise RuntimeError("no more")

    module.training_step = training_step
    with pytest.raises(RuntimeError, match="no more"):
        lightning_fit(tmp_path, module, batches(2), {"strength": 0.5}, max_steps=2)
    assert not proximal(optimizers[0])


def test_a_schedule_and_a_target_are_one_too_many() -> None:
    model = factored()
    driver = SparsityDriver(Linear(0, 1, over=9), 0.5, None)
    with pytest.raises(TrainError, match="a target and a schedule.*; needed one of the two; leave the schedule out"):
        driver.begin(model, AdamW(model.parameters()), 0, 0.0, {})


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_freezing_point_outside_the_training_is_refused(share: float) -> None:
    with pytest.raises(TrainError, match="freeze_at=.*; needed a share of the training between 0 and 1"):
        SparsityDriver(0.1, 0.5, share)


def test_importing_kronfx_imports_no_trainer() -> None:
    source = "import sys, kronfx, kronfx.train; print({'transformers', 'lightning', 'accelerate'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
