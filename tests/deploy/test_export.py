"""Exported files against the torch model, in onnxruntime and in ONNX's reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models import Entangled, FoldedLeNet, factored, folded, folded_mlp, needed_bytes
from onnx_files import PROMISED, assert_same, constants, export, ops, run, runtime_ops
from onnx_files import evaluated as reference_evaluated
from torch import Tensor, nn

from kronfx import deploy
from kronfx.records import Evaluation


def evaluated(path: Path, x: Tensor) -> np.ndarray:
    """The one output for the one input, by ONNX's reference evaluator."""
    return reference_evaluated(path, **{onnx.load(path).graph.input[0].name: x.numpy()})[0]


@pytest.mark.parametrize(
    ("build", "example"), [(folded_mlp, (1, 512)), (folded_mlp, (2, 5, 512)), (FoldedLeNet, (3, 1, 28, 28))]
)
def test_folded_models_are_small_right_and_run_dense(tmp_path: Path, build: Any, example: tuple[int, ...]) -> None:
    model, path = build().eval(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(example))

    assert report.bytes == path.stat().st_size <= 1.15 * needed_bytes(model)
    assert report.batch_sizes == (1, 7, 32)
    assert report.max_error <= report.tolerance == PROMISED
    for batch in (1, 7, 256):
        x = torch.randn(batch, *example[1:])
        assert_same(run(path, x)[0], model(x))
    left = runtime_ops(path, tmp_path)
    assert not {"ScatterND", "CumSum", "Cast", "ConstantOfShape", "Transpose"} & set(left)

    x = torch.randn(2, *example[1:])
    assert_same(evaluated(path, x), model(x))


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
@pytest.mark.parametrize("leading", [(2,), (2, 3), (2, 40)])
def test_factors_run_their_evaluation_on_stored_operands(
    tmp_path: Path, evaluation: Evaluation, leading: tuple[int, ...]
) -> None:
    layer, path = factored((6, 4, 8, 16), 3, evaluation), tmp_path / "model.onnx"
    report = export(nn.Sequential(layer), path, torch.randn(*leading, 64), "factors")

    (entry,) = report.layers
    assert entry == deploy.ExportedLayer("0", 48, 64, (8, 16), "factors", 4, 24, 4 * 48 * 64, entry.bytes)
    assert entry.bytes == 4 * 3 * (6 * 4 + 8 * 16)
    assert constants(path) == 3 * (6 * 4 + 8 * 16) + 48
    assert ops(path).count("MatMul") == 2
    assert not {"Gather", "ScatterND", "Gemm"} & set(ops(path))
    assert ops(path).count("Transpose") == 2  # to feature-major and back: the evaluation itself needs none
    for batch in (1, 7, 256):
        x = torch.randn(batch, *leading[1:], 64)
        assert_same(run(path, x)[0], layer(x))
    x = torch.randn(5, *leading[1:], 64)
    assert_same(evaluated(path, x), layer(x))


@pytest.mark.parametrize("lowering", ["dense", "blocks", "auto"])
def test_a_factored_model_runs_folded_too(tmp_path: Path, lowering: str) -> None:
    layer, path = factored((6, 4, 8, 16), 3, "a_first"), tmp_path / "model.onnx"
    report = export(nn.Sequential(layer), path, torch.randn(2, 64), lowering)
    (entry,) = report.layers
    assert (entry.site, entry.zero_blocks, entry.block) == ("0", 4, (8, 16))
    assert entry.lowering == lowering or lowering == "auto"
    x = torch.randn(5, 64)
    assert_same(run(path, x)[0], layer(x))
    assert isinstance(layer, type(factored((6, 4, 8, 16), 3, "a_first")))  # the model itself was not folded


def test_a_materialized_layer_becomes_one_dense_product(tmp_path: Path) -> None:
    """Where ``W`` is also the fewest multiply-adds: what was formed for its gradients' sake may run by its factors."""
    layer, path = factored((6, 4, 8, 16), 5, "materialize"), tmp_path / "model.onnx"
    report = export(layer, path, torch.randn(2, 64), "factors")
    assert [(entry.lowering, entry.zero_blocks) for entry in report.layers] == [("dense", 4)]
    assert runtime_ops(path, tmp_path) == ["Gemm"]
    x = torch.randn(9, 64)
    assert_same(run(path, x)[0], layer(x))
    low = factored((6, 4, 8, 16), 2, "materialize")
    assert [entry.lowering for entry in export(low, path, torch.randn(2, 64), "factors").layers] == ["factors"]
    assert_same(run(path, x)[0], low(x))


@pytest.mark.parametrize("zero", [0.0, 1.0])
def test_weights_without_and_with_nothing_but_zero_blocks(tmp_path: Path, zero: float) -> None:
    layer, path = folded(48, 64, (4, 8), zero), tmp_path / "model.onnx"
    report = export(nn.Sequential(layer), path, torch.randn(2, 64))
    (entry,) = report.layers
    assert entry.zero_blocks == (0 if zero == 0 else 96)
    assert entry.bytes <= (4 * 48 * 64 if zero == 0 else 4 * 4 * 8)  # one block of zeros at most
    x = torch.randn(3, 64)
    assert_same(run(path, x)[0], layer(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float16, 2e-2)])
def test_other_floating_types(tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    model = nn.Sequential(folded(48, 64, (4, 8)), nn.ReLU(), factored((4, 6, 8, 8), 2, "a_first")).to(dtype)
    path = tmp_path / "model.onnx"
    report = export(model, path, torch.randn(2, 64, dtype=dtype))
    assert report.tolerance == tolerance
    assert report.layers[0].bytes < report.layers[0].dense_bytes == 48 * 64 * dtype.itemsize
    x = torch.randn(4, 64, dtype=dtype)
    assert_same(run(path, x)[0], model(x), tolerance)


def test_a_fused_batch_norm_does_not_hide_a_layer(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(48)
    norm.running_var.fill_(3.0)
    norm.running_mean.uniform_()
    model, path = nn.Sequential(folded(48, 64, (4, 8)), norm).eval(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(2, 64))
    assert report.layers[0].bytes < report.layers[0].dense_bytes / 5
    assert runtime_ops(path, tmp_path) == ["Gemm"]  # one fused product: the scaled weight is what is stored
    x = torch.randn(4, 64)
    assert_same(run(path, x)[0], model(x))


def test_the_file_says_nothing_of_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export(Entangled(), path, torch.randn(2, 48))
    model, content = onnx.load(path), path.read_bytes()
    assert model.producer_name == "kronfx"
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert set(told) == {"kronfx", "kronfx.source"}
    assert told["kronfx.source"] == f"pytorch {torch.__version__}"
    assert not any(node.doc_string for node in model.graph.node)
    assert {entry.key for node in model.graph.node for entry in node.metadata_props} <= {"namespace"}
    for leak in (b".py", b"site-packages", str(tmp_path).encode(), str(Path.home()).encode(), b"stack_trace"):
        assert leak not in content
