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
from torch import nn
from torch.optim import AdamW
from trainers import (
    QUIET,
    Regression,
    assert_same_factors,
    batches,
    constant,
    factored,
    lightning_fit,
    lightning_module,
    loader,
    rows,
    training_arguments,
    transformers_trainer,
)

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train.callbacks.driver import SparsityDriver
from kronfx.train.callbacks.state_file import read_state

STEPS, RATE = 24, 0.01


def by_hand() -> nn.Module:
    """The loop that the documentation of BlockSparsity shows."""
    model = factored()
    optimizer = AdamW(model.parameters(), RATE, weight_decay=0.0)
    sparsity = kx.train.BlockSparsity(model, target=0.5, optimizer=optimizer, steps=STEPS)
    for x, y in batches(STEPS):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        sparsity.step()
    return model


def example_of(module: str) -> str:
    """The indented source of a module's docstring."""
    found = re.search(r"::\n\n((?:    .*\n|\n)+)", import_module(module).__doc__ or "")
    assert found is not None
    return dedent(found[1])


def in_order(folder: Path) -> Any:
    """The target and nothing else."""
    arguments = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 10}
    return transformers_trainer(folder, factored(), batches(STEPS), RATE, constant, {"target": 0.5}, **arguments)


def test_a_transformers_trainer_runs_the_recipe_and_resumes_within_it(tmp_path: Path) -> None:
    whole = in_order(tmp_path)
    whole.train()
    wanted = by_hand()
    assert_same_factors(whole.model.network, wanted)
    checkpoint = tmp_path / "checkpoint-10"
    assert read_state(checkpoint / "block_sparsity.safetensors")["steps"] == 10
    again = in_order(tmp_path)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert_same_factors(again.model.network, wanted)


def test_a_lightning_trainer_runs_the_recipe(tmp_path: Path) -> None:
    module = lightning_module(factored(), RATE)
    lightning_fit(tmp_path, module, batches(STEPS), {"target": 0.5}, max_epochs=1)
    assert_same_factors(module.network, by_hand())  # the steps are an epoch's batches


def test_the_example_of_the_transformers_callback_runs(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    source = example_of("kronfx.train.callbacks.transformers")
    arguments = training_arguments(tmp_path, max_steps=STEPS, save_strategy="no")
    given = {"kx": kx, "Trainer": transformers.Trainer, "arguments": arguments, "data": rows(batches(STEPS))}
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

    def trainer(**options: Any) -> Any:
        return pl.Trainer(max_epochs=1, enable_checkpointing=False, **options, **QUIET)

    module = lightning_module(mlp(16, 64, 64, 8), RATE)
    given = {"kx": kx, "Trainer": trainer, "module": module, "data": loader(batches(STEPS))}
    run_example(example_of("kronfx.train.callbacks.lightning"), given)


def test_a_training_without_an_end_is_told() -> None:
    model = factored()
    with pytest.raises(TrainError, match="steps=0; needed the optimizer steps of the whole training"):
        SparsityDriver(target=0.5).begin(model, AdamW(model.parameters()), 0)


def test_a_file_that_is_no_state_is_told(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(TrainError, match="a state that this callback wrote; delete it"):
        read_state(path)
