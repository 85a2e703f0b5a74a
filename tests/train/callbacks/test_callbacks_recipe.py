"""The recipe inside the trainers: a target and nothing else; the examples of the docstrings, run as they stand."""

from __future__ import annotations

import re
import warnings
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models import mlp
from torch import Tensor, nn
from torch.optim import AdamW

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train.callbacks.driver import SparsityDriver
from kronfx.train.callbacks.state_file import read_state

STEPS, RATE = 24, 0.01
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def factored() -> nn.Module:
    torch.manual_seed(0)
    return kx.factorize(mlp(16, 24, 24, 8), rank=2, block=(4, 4))


def batches(count: int = STEPS) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 16, generator=generator), torch.randn(4, 8, generator=generator)) for _ in range(count)]


def by_hand() -> nn.Module:
    """The loop that the documentation of BlockSparsity shows."""
    model = factored()
    optimizer = AdamW(model.parameters(), RATE, weight_decay=0.0)
    sparsity = kx.train.BlockSparsity(model, target=0.5, optimizer=optimizer, steps=STEPS)
    for x, y in batches():
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        sparsity.step()
    return model


def assert_same(found: nn.Module, wanted: nn.Module) -> None:
    for (name, parameter), (_, expected) in zip(found.named_parameters(), wanted.named_parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6, msg=name)
        assert torch.equal(parameter == 0, expected == 0), name


def example_of(module: str) -> str:
    """The indented source of a module's docstring."""
    found = re.search(r"::\n\n((?:    .*\n|\n)+)", import_module(module).__doc__ or "")
    assert found is not None
    return dedent(found[1])


class Regression(nn.Module):
    """What a transformers Trainer wants: data by name, the loss by name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.mse_loss(self.network(x), labels)}


def rows() -> list[dict[str, Tensor]]:
    return [{"x": x, "labels": y} for xs, ys in batches() for x, y in zip(xs, ys)]


def in_order(folder: Path, **options: Any) -> Any:
    """A Trainer over rows that are in order already, at a constant rate."""
    transformers = pytest.importorskip("transformers")
    callbacks = pytest.importorskip("kronfx.train.callbacks.transformers")

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> None:
            return None

    model = Regression(factored())
    optimizer = AdamW(model.parameters(), RATE, weight_decay=0.0)
    arguments = transformers.TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=4, max_grad_norm=0.0, report_to=[], disable_tqdm=True,
        use_cpu=True, dataloader_pin_memory=False, label_names=["labels"], save_strategy="steps", save_steps=10,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    callback = callbacks.BlockSparsityCallback(**options)
    return InOrder(
        model, arguments, train_dataset=rows(), optimizers=(optimizer, schedule), callbacks=[callback]
    )  # fmt: skip


def test_a_transformers_trainer_runs_the_recipe_and_resumes_within_it(tmp_path: Path) -> None:
    whole = in_order(tmp_path, target=0.5)
    whole.train()
    wanted = by_hand()
    assert_same(whole.model.network, wanted)
    checkpoint = tmp_path / "checkpoint-10"
    assert read_state(checkpoint / "block_sparsity.safetensors")["steps"] == 10
    again = in_order(tmp_path, target=0.5)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert_same(again.model.network, wanted)


def test_a_lightning_trainer_runs_the_recipe(tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch")
    callbacks = pytest.importorskip("kronfx.train.callbacks.lightning")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = factored()

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return F.mse_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return AdamW(self.parameters(), RATE, weight_decay=0.0)

    trainer = pl.Trainer(
        max_epochs=1, default_root_dir=tmp_path, callbacks=[callbacks.BlockSparsityCallback(target=0.5)],
        enable_checkpointing=False, **QUIET,
    )  # fmt: skip
    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers of the data loader
        trainer.fit(module, torch.utils.data.DataLoader(batches(), batch_size=None))
    assert_same(module.network, by_hand())  # the steps are an epoch's batches


def test_the_example_of_the_transformers_callback_runs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = example_of("kronfx.train.callbacks.transformers")
    arguments = transformers.TrainingArguments(
        tmp_path, max_steps=STEPS, per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True,
        save_strategy="no", label_names=["labels"], dataloader_pin_memory=False,
    )  # fmt: skip
    given = {"kx": kx, "Trainer": transformers.Trainer, "arguments": arguments, "data": rows()}
    torch.manual_seed(0)
    run_example(source, {**given, "model": Regression(mlp(16, 64, 64, 8))})


def run_example(source: str, names: dict[str, Any]) -> None:
    """As it stands, with what it takes for granted; most blocks of the model are zero then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers of the data loader, and about floors
        exec(source, names)
    model = names["model"] if "model" in names else names["module"]
    report = kx.inspect(kx.fold(model))
    assert report.zero_blocks / report.blocks == pytest.approx(0.8, abs=0.01)


def test_the_example_of_the_lightning_callback_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl = pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = mlp(16, 64, 64, 8)

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return F.mse_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return AdamW(self.parameters(), RATE)

    def trainer(**options: Any) -> Any:
        return pl.Trainer(max_epochs=1, enable_checkpointing=False, **options, **QUIET)

    data = torch.utils.data.DataLoader(batches(), batch_size=None)
    run_example(
        example_of("kronfx.train.callbacks.lightning"), {"kx": kx, "Trainer": trainer, "module": Module(), "data": data}
    )


def test_a_training_without_an_end_is_told() -> None:
    model = factored()
    with pytest.raises(TrainError, match="steps=0; needed the optimizer steps of the whole training"):
        SparsityDriver(target=0.5).begin(model, AdamW(model.parameters()), 0)


def test_a_file_that_is_no_state_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(TrainError, match="a state that this callback wrote; delete it"):
        read_state(path)
