"""The callbacks against the loop they stand for, in real trainers; the blocks counted on the folded weights."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import mlp
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Linear
from kronfx.train.callbacks.driver import SparsityDriver

STEPS, LEARNING_RATE = 8, 0.02
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
SAME = {"rtol": 0.0, "atol": 1e-6}  # float32: the same operations, summed by other kernels at most
Options = dict[str, Any]
OPTIONS: tuple[Options, ...] = (
    {"strength": 10.0},
    {"strength": Linear(0.0, 60.0, over=8)},
    {"strength": 15.0, "target": 0.3},
    {"strength": 40.0, "target": {"*2": 0.3, "*4": 0.5}, "freeze_at": 0.5},
)


def factored() -> nn.Module:
    """Three layers, the blocks of each spread in size, so that some of them vanish within a few steps."""
    torch.manual_seed(0)
    model = kx.factorize(mlp(16, 24, 24, 8), rank=2, block=(4, 4))
    for factors in kx.factors(model).values():
        nn.init.uniform_(factors.S, 0.05, 1.0)
    return model


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 16, generator=generator), torch.randn(4, 8, generator=generator)) for _ in range(count)]


def decay(step: int) -> float:
    """The learning rate halves every second step: a callback that is one step late shrinks by another amount."""
    return 0.5 ** (step // 2)


def by_hand(data: list[tuple[Tensor, Tensor]], accumulate: int, options: Options) -> nn.Module:
    """The loop the documentation of BlockSparsity shows."""
    options = dict(options)
    freeze_at: float = options.pop("freeze_at", 2.0)
    model = factored()
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


def assert_same_factors(found: nn.Module, wanted: nn.Module) -> None:
    for (name, parameter), (_, expected) in zip(found.named_parameters(), wanted.named_parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, **SAME, msg=lambda text, name=name: f"{name}: {text}")
        if name.endswith("S"):
            assert torch.equal(parameter == 0, expected == 0), name


class Regression(nn.Module):
    """What a transformers Trainer wants: a forward that takes the data by name and gives the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = factored()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.mse_loss(self.network(x), labels)}


def hugging_face(
    folder: Path, options: Options, data: list[tuple[Tensor, Tensor]], steps: int, **arguments: Any
) -> Any:
    """A Trainer over rows that are already in order, with our schedule of the learning rate."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from kronfx.train.callbacks.transformers import BlockSparsityCallback

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> None:
            return None

    model = Regression()
    optimizer = AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0)
    return InOrder(
        model,
        transformers.TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=4, max_grad_norm=0.0, logging_steps=1, report_to=[],
            disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, label_names=["labels"], **arguments,
        ),
        train_dataset=[{"x": x, "labels": y} for xs, ys in data for x, y in zip(xs, ys)],
        optimizers=(optimizer, LambdaLR(optimizer, decay)),
        callbacks=[BlockSparsityCallback(**options)],
    )  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_transformers_trainer_does_what_the_loop_does(tmp_path: Path, options: Options, accumulate: int) -> None:
    data = batches(STEPS * accumulate)
    trainer = hugging_face(tmp_path, options, data, STEPS, save_strategy="no", gradient_accumulation_steps=accumulate)
    trainer.train()
    assert_same_factors(trainer.model.network, by_hand(data, accumulate, options))
    logged = [log["block_sparsity"] for log in trainer.state.log_history]
    assert len(logged) == STEPS + 1  # every step, and the summary
    assert logged[-1] == share_of_zero_blocks(trainer.model) > 0.1


def test_a_resumed_transformers_trainer_goes_on_from_the_strength_it_had_found(tmp_path: Path) -> None:
    options, data = {"strength": 0.5, "target": 0.9}, batches(STEPS)
    whole = hugging_face(tmp_path / "whole", options, data, STEPS, save_strategy="steps", save_steps=4)
    whole.train()
    again = hugging_face(tmp_path / "again", options, data, STEPS, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    strengths = [[log["block_strength"] for log in trainer.state.log_history] for trainer in (whole, again)]
    assert strengths[0] == strengths[1]
    assert strengths[0][-1] > strengths[0][0] > 0.5
    assert_same_factors(again.model, whole.model)


def lightning_fit(
    folder: Path,
    options: Options,
    data: list[tuple[Tensor, Tensor]],
    steps: int,
    resume: Path | None = None,
    **more: Any,
) -> tuple[Any, Any]:
    """A Lightning Trainer over whole batches, in order."""
    pl = pytest.importorskip("lightning.pytorch")
    from kronfx.train.callbacks.lightning import BlockSparsityCallback

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = factored()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return F.mse_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = AdamW(self.parameters(), LEARNING_RATE, weight_decay=0.0)
            return [optimizer], [{"scheduler": LambdaLR(optimizer, decay), "interval": "step"}]

    trainer = pl.Trainer(
        max_steps=steps, log_every_n_steps=1, default_root_dir=folder, callbacks=[BlockSparsityCallback(**options)],
        **QUIET, **more,
    )  # fmt: skip
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers of the data loader
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None), ckpt_path=resume)
    return trainer, module


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_lightning_trainer_does_what_the_loop_does(tmp_path: Path, options: Options, accumulate: int) -> None:
    data = batches(STEPS * accumulate)
    trainer, module = lightning_fit(
        tmp_path, options, data, STEPS, accumulate_grad_batches=accumulate, enable_checkpointing=False
    )
    assert_same_factors(module.network, by_hand(data, accumulate, options))
    assert float(trainer.callback_metrics["block_sparsity"]) == pytest.approx(share_of_zero_blocks(module), rel=1e-6)
    assert share_of_zero_blocks(module) > 0.1


def test_a_resumed_lightning_trainer_goes_on_from_the_strength_it_had_found(tmp_path: Path) -> None:
    options = {"strength": 0.5, "target": 0.9}
    first, _ = lightning_fit(tmp_path, options, batches(4), 4, enable_checkpointing=False)
    first.save_checkpoint(tmp_path / "half.ckpt")
    found = float(first.callback_metrics["block_strength"])
    second, _ = lightning_fit(
        tmp_path, options, batches(4), 5, tmp_path / "half.ckpt", max_epochs=2, enable_checkpointing=False
    )
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
        trainer.fit(Two(), torch.utils.data.DataLoader(batches(1), batch_size=None))


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
