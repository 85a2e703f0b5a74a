"""A folded model is the dense model to torch's own tools, which go by exact types; kronfx still knows its grids.

The oracle is the dense model itself: what a tool makes of it, it makes of the folded one.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from citizens import by_pickle, by_torch_save
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules, quantize_dynamic
from torch.fx.experimental.optimization import fuse
from torch.nn.utils import fusion, parametrizations, prune

import kronfx as kx
from kronfx.layers import BlockSparseConv, BlockSparseLinear, folded_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # torch announces the end of these tools; they are still in use


def dense() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Linear(64, 8)).eval()


SITES = ["0", "4", "6"]


def example() -> Tensor:
    return torch.randn(3, 8, 4, 4, generator=torch.Generator().manual_seed(1))


def folded() -> nn.Module:
    """With a third of the blocks of every layer zero."""
    factored = kx.factorize(dense(), rank=2, block=(4, 4))
    for layer in kx.factors(factored).values():
        layer.S.data.flatten()[::3] = 0
    return kx.fold(factored)


Tool = Callable[[nn.Module], nn.Module]
TOOLS: dict[str, Tool] = {
    "quantize_dynamic": lambda m: quantize_dynamic(m, {nn.Linear}, dtype=torch.qint8),
    "fuse_modules": lambda m: fuse_modules(m, [["0", "1", "2"], ["4", "5"]]),
    "fx fuse": fuse,
    "script": torch.jit.script,
    "trace": lambda m: torch.jit.trace(m, example()),
    "frozen script": lambda m: torch.jit.freeze(torch.jit.script(m)),
    "export": lambda m: torch.export.export(m, (example(),)).module(),
    "compile": lambda m: torch.compile(m, backend="eager", fullgraph=True),  # type: ignore[dict-item, return-value]
}


def kinds(model: nn.Module) -> list[str]:
    """The types of all modules of a model, by their full names."""
    return [f"{type(module).__module__}.{type(module).__qualname__}" for module in model.modules()]


def test_the_types_are_the_dense_models() -> None:
    assert kinds(folded()) == kinds(dense())


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_makes_of_it_what_it_makes_of_the_dense_model(name: str) -> None:
    model, tool = folded(), TOOLS[name]
    wanted = model(example())
    made = tool(copy.deepcopy(model))
    if name != "trace":  # whose submodules have names of their own
        assert kinds(made) == kinds(tool(dense()))
    atol = 0.05 if name == "quantize_dynamic" else 1e-5  # 8 bits of weights and activations of order 1
    torch.testing.assert_close(made(example()), wanted, rtol=1e-4, atol=atol)


KEEPING: dict[str, Tool] = {
    "deepcopy": copy.deepcopy,
    "pickle": by_pickle,
    "torch.save": by_torch_save,
    "to": lambda m: m.double().float(),
    "fuse_modules": TOOLS["fuse_modules"],
    "fx fuse": fuse,
    "trained": lambda m: m.train().requires_grad_(True),
    "compile": TOOLS["compile"],
}


@pytest.mark.parametrize("name", KEEPING)
def test_the_grid_goes_where_the_layer_goes(name: str) -> None:
    model = folded()
    shapes = [weight.shape for weight in folded_layers(model).values()]
    zeros = [weight.zero_blocks() for weight in folded_layers(model).values()]
    assert min(zeros) > 0
    kept = KEEPING[name](model)
    found = folded_layers(kept)
    assert [weight.shape for weight in found.values()] == shapes
    assert [weight.zero_blocks() for weight in found.values()] == zeros
    rows = [layer for layer in kx.inspect(kept).layers if layer.state == "folded"]
    assert [layer.zero_blocks for layer in rows] == zeros


def test_what_knows_its_grid_is_block_sparse() -> None:
    model = folded()
    assert [isinstance(m, (BlockSparseLinear, BlockSparseConv)) for m in model] == [
        str(index) in SITES for index in range(len(model))
    ]
    assert not any(isinstance(m, (BlockSparseLinear, BlockSparseConv)) for m in dense().modules())


def test_the_export_still_knows_the_grid(tmp_path: Path) -> None:
    report = kx.export_onnx(fuse(folded()), tmp_path / "model.onnx", example(), lowering="dense", tune=False)
    assert {entry.site: entry.block for entry in report.layers} == {"0": (4, 36), "4": (4, 4), "6": (4, 4)}
    onnx.checker.check_model(str(tmp_path / "model.onnx"))


def test_save_load_and_bsr_still_know_the_grid(tmp_path: Path) -> None:
    model = folded()
    loaded = kx.load(dense(), kx.save(by_pickle(model), tmp_path / "saved"))
    assert kinds(loaded) == kinds(dense())
    for twin in (loaded, kx.to_bsr(model)):
        torch.testing.assert_close(twin(example()), model(example()))
    assert {name: weight.shape for name, weight in folded_layers(loaded).items()} == {
        name: weight.shape for name, weight in folded_layers(model).items()
    }


def test_torchs_pruning_and_parametrizations_take_it() -> None:
    model = folded()
    linear: Any = model[4]  # type: ignore[index]
    zeros = folded_layers(model)["4"].zero_blocks()
    prune.l1_unstructured(linear, "weight", 0.2)
    assert folded_layers(model)["4"].zero_blocks() >= zeros
    prune.remove(linear, "weight")
    parametrizations.weight_norm(linear)
    assert folded_layers(model)["4"].zero_blocks() >= zeros
    assert model(example()).isfinite().all()


def test_a_fused_batch_norm_keeps_the_zero_blocks() -> None:
    model = folded()
    fused = fusion.fuse_linear_bn_eval(model[4], model[5])  # type: ignore[index]
    assert folded_layers(fused)["weight"].zero_blocks() == folded_layers(model)["4"].zero_blocks()


def test_a_model_that_torchao_quantized_is_described() -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    factored = kx.factorize(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), rank=2)
    kx.factors(factored)["0"].S.data[0] = 0
    model = kx.fold(factored)
    before = kx.inspect(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    after = kx.inspect(model)
    assert [layer.zero_blocks for layer in after.layers] == [layer.zero_blocks for layer in before.layers]
    assert after.refusals == ()
