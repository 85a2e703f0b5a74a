"""The trainers of transformers and Lightning over batches that are in order, with our callback in them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
Batches = list[tuple[Tensor, Tensor]]
Schedule = Callable[[int], float]


def factored() -> nn.Module:
    """Three layers in 4x4 blocks."""
    torch.manual_seed(0)
    return kx.factorize(mlp(16, 24, 24, 8), rank=2, block=(4, 4))


def batches(count: int) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 16, generator=generator), torch.randn(4, 8, generator=generator)) for _ in range(count)]


def rows(data: Batches) -> list[dict[str, Tensor]]:
    """The same data as transformers wants it."""
    return [{"x": x, "labels": y} for xs, ys in data for x, y in zip(xs, ys)]


def constant(_: int) -> float:
    return 1.0


def assert_same_factors(found: nn.Module, wanted: nn.Module) -> None:
    """Float32: the same operations, summed by other kernels at most; the zeros are the same."""
    for (name, parameter), (_, expected) in zip(found.named_parameters(), wanted.named_parameters(), strict=True):
        torch.testing.assert_close(
            parameter, expected, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(parameter == 0, expected == 0), name


class Regression(nn.Module):
    """What a transformers Trainer wants: a forward that takes the data by name and gives the loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": F.mse_loss(self.network(x), labels)}


def training_arguments(folder: Path, **arguments: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    return transformers.TrainingArguments(
        folder, per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True, label_names=["labels"],
        dataloader_pin_memory=False, **arguments,
    )  # fmt: skip


def transformers_trainer(
    folder: Path, network: nn.Module, data: Batches, rate: float, schedule: Schedule, options: dict[str, Any],
    **arguments: Any,
) -> Any:  # fmt: skip
    """A Trainer over the rows as they come; ``options`` are the callback's."""
    transformers = pytest.importorskip("transformers")
    from kronfx.train.callbacks.transformers import BlockSparsityCallback

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> None:
            return None

    model = Regression(network)
    optimizer = AdamW(model.parameters(), rate, weight_decay=0.0)
    return InOrder(
        model,
        training_arguments(folder, max_grad_norm=0.0, **arguments),
        train_dataset=rows(data),
        optimizers=(optimizer, LambdaLR(optimizer, schedule)),
        callbacks=[BlockSparsityCallback(**options)],
    )


def lightning_module(network: nn.Module, rate: float, schedule: Schedule = constant) -> Any:
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def training_step(self, batch: list[Tensor]) -> Tensor:
            return F.mse_loss(self.network(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = AdamW(self.parameters(), rate, weight_decay=0.0)
            return [optimizer], [{"scheduler": LambdaLR(optimizer, schedule), "interval": "step"}]

    return Module()


def lightning_fit(
    folder: Path, module: Any, data: Batches, options: dict[str, Any], resume: Path | None = None, **more: Any
) -> Any:
    """The Trainer that has fitted the module to whole batches, in order; ``options`` are the callback's."""
    pl = pytest.importorskip("lightning.pytorch")
    from kronfx.train.callbacks.lightning import BlockSparsityCallback

    callbacks = [BlockSparsityCallback(**options)]
    trainer = pl.Trainer(
        log_every_n_steps=1, default_root_dir=folder, callbacks=callbacks, enable_checkpointing=False, **QUIET, **more
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about workers of the data loader
        trainer.fit(module, loader(data), ckpt_path=resume)
    return trainer


def loader(data: Batches) -> Any:
    return torch.utils.data.DataLoader(data, batch_size=None)
