"""What a file takes: surviving blocks or factors, once for all who read them, and hardly anything besides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models import Entangled, factored, folded
from onnx_files import (
    assert_same,
    constants,
    export,
    normal,
    onnx_file,
    ops,
    planted,
    product,
    run,
    runtime_ops,
    sparse,
)
from onnx_spellings import hold
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

import kronfx as kx
from kronfx.layers import KroneckerLinear, folded_layers
from kronfx.records import Evaluation, KroneckerShape

TIED = """
    h = MatMul(x, w)
    r = Relu(h)
"""


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize("size", [(48, 40), (48, 48)])
def test_one_constant_that_is_read_in_both_orientations(tmp_path: Path, lowering: str, size: tuple[int, int]) -> None:
    """As the encoder and decoder of a tied autoencoder read it."""
    m, n = size
    W, signature = planted(m, n, (8, 4), 0.6), f"float[b, {n}] x => float[b, {n}] y"
    src = onnx_file(tmp_path / "m.onnx", signature, TIED, "y = Gemm<transB = 1>(r, w)", w=W.T)
    dst, _ = sparse(src, lowering, block=(8, 4) if m == n else None)
    x = normal(5, n)
    hold(src, dst, x, np.maximum(x.astype(float) @ W.T, 0) @ W)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_one_constant_that_two_products_read_is_stored_once(tmp_path: Path, lowering: str) -> None:
    W = planted(48, 48, (8, 8), 0.6)
    signature = "float[b, 48] x => float[b, 48] y"
    src = onnx_file(tmp_path / "m.onnx", signature, TIED, "y = MatMul(r, w)", w=W.T)
    dst, report = sparse(src, lowering)
    x = normal(5, 48)
    hold(src, dst, x, np.maximum(x.astype(float) @ W.T, 0) @ W.T)
    (layer,) = report.layers
    assert constants(dst) <= 64 * (36 - layer.zero_blocks) * 33 / 32 + 64


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_a_weight_and_its_transpose_as_two_constants(tmp_path: Path, lowering: str) -> None:
    W = planted(48, 40, (8, 8), 0.6)
    signature = "float[b, 40] x => float[b, 40] y"
    src = onnx_file(tmp_path / "m.onnx", signature, TIED, "y = MatMul(r, v)", w=W.T, v=W)
    dst, _ = sparse(src, lowering)
    x = normal(5, 40)
    hold(src, dst, x, np.maximum(x.astype(float) @ W.T, 0) @ W)
    if lowering == "dense":
        assert constants(dst) <= np.count_nonzero(W) + 64  # and one block of zeros


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize(("block", "zero"), [((8, 8), 0.5), ((16, 16), 0.9), ((32, 32), 0.75), ((64, 8), 0.9)])
def test_files_are_as_small_as_what_survives(
    tmp_path: Path, lowering: str, block: tuple[int, int], zero: float
) -> None:
    """At most 1.05 times the surviving bytes, and what the file holds besides weights."""
    W = planted(1024, 512, block, zero)
    bare = product(tmp_path / "bare.onnx", np.ones((1, 1), "f"))
    dst, report = sparse(product(tmp_path / "m.onnx", W), lowering)
    besides = bare.stat().st_size + 4000  # names and nodes: some thirty a layer
    assert report.bytes == dst.stat().st_size
    assert report.bytes <= 1.05 * 4 * np.count_nonzero(W) + besides
    assert report.layers[0].bytes <= 1.05 * 4 * np.count_nonzero(W)


def test_a_few_zero_rows_cost_little(tmp_path: Path) -> None:
    W = planted(512, 512, (16, 16), 0.5)
    W[32:64] = 0
    dst, report = sparse(product(tmp_path / "m.onnx", W))
    assert report.bytes == dst.stat().st_size <= 1.05 * 4 * np.count_nonzero(W) + 4000


@pytest.mark.parametrize("zero", [0.0, 0.2, 0.4, 0.6])
def test_storage_never_makes_a_file_larger(tmp_path: Path, zero: float) -> None:
    block_sparse = folded(16, 32, (4, 4), zero, bias=False)  # 2 KiB dense: the nodes alone would eat what little is won
    plain = nn.Linear(32, 16, bias=False)
    plain.weight = block_sparse.weight
    sizes = [
        export(nn.Sequential(layer), tmp_path / name, torch.randn(2, 32), verify=False).bytes
        for name, layer in (("sparse", block_sparse), ("plain", plain))
    ]
    record = len(json.dumps({"layers": ["0", 16, 32, [4, 4], "dense", 32, 32, 2048, 2048]}))
    assert sizes[0] <= sizes[1] + record


@pytest.mark.parametrize("evaluation", ["a_first", "materialize"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_factored_layer_that_runs_dense_is_stored_as_its_factors(
    tmp_path: Path, evaluation: Evaluation, bias: bool
) -> None:
    """Which onnxruntime's dynamic quantization leaves alone, save after its preparation, which makes it dense again."""
    model, path = nn.Sequential(factored((12, 8, 16, 16), 3, evaluation, bias), nn.ReLU()), tmp_path / "m.onnx"
    report = kx.export_onnx(model, path, torch.randn(2, 4, 128), lowering="dense")
    assert report.layers[0].bytes == 4 * 3 * (12 * 8 + 16 * 16)
    assert constants(path) == 3 * (12 * 8 + 16 * 16) + 192 * bias
    assert not {"MatMul", "Gemm", "FusedGemm"}.isdisjoint(runtime_ops(path, tmp_path))
    assert len(runtime_ops(path, tmp_path)) <= 3
    x = torch.randn(5, 4, 128)
    assert_same(run(path, x)[0], model(x))
    quantized, prepared = tmp_path / "q.onnx", tmp_path / "p.onnx"
    quantize_dynamic(path, quantized)
    assert_same(run(quantized, x)[0], model(x))
    quant_pre_process(path, prepared)
    quantize_dynamic(prepared, quantized)
    assert "MatMulInteger" in ops(quantized)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("features", [None, (190, 125)])
def test_stored_factors_are_stored_so_again(
    tmp_path: Path, dtype: torch.dtype, features: tuple[int, int] | None
) -> None:
    layer = KroneckerLinear(KroneckerShape(12, 8, 16, 16), 3, "a_first", True, features=features)
    model, path = nn.Sequential(layer).to(dtype), tmp_path / "m.onnx"
    first = export(model, path, torch.randn(2, 4, features[1] if features else 128, dtype=dtype))
    assert first.layers[0].bytes == dtype.itemsize * 3 * (12 * 8 + 16 * 16)
    for _ in range(2):
        again = kx.sparsify_onnx(path, path, lowering="dense", tune=False)
        assert again.layers[0].bytes == first.layers[0].bytes
        assert again.bytes <= first.bytes
    if dtype == torch.float32:
        quantize_dynamic(path, tmp_path / "q.onnx")
        assert "MatMulInteger" not in ops(tmp_path / "q.onnx")


@pytest.mark.parametrize("is_first", [False, True])
def test_a_factored_weight_used_both_ways_is_stored_once(tmp_path: Path, is_first: bool) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = factored((12, 8, 16, 16), 3, "a_first", bias=False)

        def forward(self, x: Tensor) -> Tensor:
            if is_first:
                return self.layer(self.layer(x).relu() @ self.layer.weight)
            return self.layer((x @ self.layer.weight).relu()) @ self.layer.weight

    model, path = Both(), tmp_path / "m.onnx"
    x = torch.randn(4, 128 if is_first else 192)
    report = export(model, path, x)
    assert constants(path) == 3 * (12 * 8 + 16 * 16)
    assert sum(layer.bytes for layer in report.layers) == 4 * constants(path)
    assert_same(run(path, x)[0], model(x))


def test_tied_layers_are_stored_once_and_unused_ones_not_at_all(tmp_path: Path) -> None:
    model, path = Entangled(), tmp_path / "model.onnx"
    report = export(model, path, torch.randn(2, 48), "factors")
    survivors = 36 - folded_layers(model)["a"].zero_blocks()
    stored = {entry.site: entry.bytes for entry in report.layers}
    assert constants(path) <= (survivors + 1) * 64 + 2 * (36 + 64) + 2 * 48
    assert sum(stored.values()) <= 4 * ((survivors + 1) * 64 + 2 * (36 + 64)) + 100
    x = torch.randn(6, 48)
    assert_same(run(path, x)[0], model(x))
