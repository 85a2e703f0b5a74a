"""Autocast, inference mode, default types and devices: what the verbs compute does not depend on what is around them.

The oracle is the same call with nothing around it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import kronfx as kx
from kronfx.layers import folded_layers


@contextmanager
def default_dtype(dtype: torch.dtype) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


Around = Callable[[], AbstractContextManager[Any]]
AROUND: dict[str, Around] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "float64 by default": lambda: default_dtype(torch.float64),
    "float16 by default": lambda: default_dtype(torch.float16),
    "meta by default": lambda: torch.device("meta"),
}
everywhere = pytest.mark.parametrize("name", AROUND)


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 8)).eval()


def example(batch: int = 3) -> Tensor:
    return torch.randn(batch, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def sparse(model: nn.Module) -> nn.Module:
    """With blocks that are zero, and one so small that 16 bits would take it for zero."""
    for factors in kx.factors(model).values():
        factors.S.data.flatten()[::3] = 0
        factors.S.data.flatten()[1] = 1e-7
    return model


def factored() -> nn.Module:
    return sparse(kx.factorize(dense(), rank=2, block=(4, 4), init="nearest"))


def state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())


def assert_equal(found: nn.Module, wanted: nn.Module) -> None:
    """To the bit, and able to train."""
    assert state(found).keys() == state(wanted).keys()
    for key, value in state(wanted).items():
        assert state(found)[key].dtype == value.dtype
        assert torch.equal(state(found)[key], value), key
    assert not any(parameter.is_inference() for parameter in found.parameters())
    found(example()).sum().backward()
    assert all(parameter.grad is not None for parameter in found.parameters())


@everywhere
@pytest.mark.parametrize("init", ["nearest", "random"])
def test_factorize(name: str, init: Any) -> None:
    model, found = dense(), []
    for around in (nullcontext, AROUND[name]):
        torch.manual_seed(1)
        with around():
            found.append(kx.factorize(model, rank=2, init=init, energy=True))
    assert_equal(found[1], found[0])


@everywhere
def test_fold(name: str) -> None:
    model = factored()
    wanted = kx.fold(model)
    with AROUND[name]():
        found = kx.fold(model)
        report = kx.inspect(model)
    assert_equal(found, wanted)
    assert [w.zero_blocks() for w in folded_layers(found).values()] == [layer.zero_blocks for layer in report.layers]
    assert report == kx.inspect(model)


@everywhere
def test_bsr(name: str) -> None:
    folded = kx.fold(factored())
    wanted = kx.to_bsr(folded)
    with AROUND[name]():
        found = kx.to_bsr(folded)
    assert_equal(found, wanted)


@everywhere
def test_save_and_load(name: str, tmp_path: Path) -> None:
    for kind, model in {"factored": factored(), "folded": kx.fold(factored())}.items():
        fresh = dense()
        with AROUND[name]():
            loaded = kx.load(fresh, kx.save(model, tmp_path / kind))
        assert_equal(loaded, model)


@everywhere
def test_graph(name: str) -> None:
    model = factored()
    with AROUND[name]():
        graph = kx.graph(model)
    torch.testing.assert_close(graph(example()), model(example()))


@everywhere
def test_export(name: str, tmp_path: Path) -> None:
    """The file computes in float32 what the model computes in float32."""
    model, x, path = factored(), example(), tmp_path / "model.onnx"
    with AROUND[name]():
        report = kx.export_onnx(model, path, x, tune=False)
    assert report.tolerance == 1e-4
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-4, atol=1e-5)


@everywhere
def test_a_training_goes_on_after_a_fold_in_the_middle(name: str) -> None:
    """An evaluation that folds and measures must not leave anything on the model that trains."""
    model = factored()
    before = io.BytesIO()
    torch.save(model.state_dict(), before)
    with AROUND[name]():
        kx.inspect(kx.fold(model))
    model(example()).sum().backward()
    after = io.BytesIO()
    torch.save(model.state_dict(), after)
    assert before.getvalue() == after.getvalue()
