"""Sparse files are ordinary ONNX: other runtimes load them, other tools transform them, before and after.

The model is plain torch, its blocks zeroed by plain torch, its file written by ``torch.onnx.export``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

import kronfx as kx

Array = np.ndarray[Any, Any]

WIDTH, HIDDEN, BLOCK = 128, 320, 16
SHAPES = ((1, 1), (2, 5), (3, 17))  # batch, sequence: both are free axes of the file
WASM = Path(__file__).parents[1] / "wasm"

# Relative to the largest output. Sums of up to 320 terms in another order: some roundings of float32 each.
FLOAT = 64 * np.finfo(np.float32).eps
# Weights, activations and results of four steps rounded to 11 bits.
HALF = 16 * np.finfo(np.float16).eps
# Two products of 8-bit weights and activations: some steps of 1/127 that mostly cancel.
EIGHT_BIT = 5e-2
# An 8-bit activation on the edge between two steps falls either way.
ONE_STEP = 1e-2


class Block(nn.Module):
    """``norm(x + down(gelu(up(x))))``, as in a transformer, nine tenths of the blocks zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.norm = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH), nn.LayerNorm(WIDTH)
        for layer in (self.up, self.down):
            kept = torch.rand(layer.out_features // BLOCK, layer.in_features // BLOCK) < 0.1
            layer.weight.data *= torch.kron(kept, torch.ones(BLOCK, BLOCK)) * 10**0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(nn.functional.gelu(self.up(x))))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``dense.onnx`` as torch writes it; ``blocks.onnx`` and ``stored.onnx``, its two sparse forms."""
    folder = tmp_path_factory.mktemp("compose")
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    program = torch.onnx.export(
        Block().eval(), (torch.randn(2, 3, WIDTH),), dynamo=True, dynamic_shapes=(free,), verbose=False
    )
    program.save(folder / "dense.onnx")
    kx.sparsify_onnx(folder / "dense.onnx", folder / "blocks.onnx", lowering="blocks", tune=False)
    kx.sparsify_onnx(folder / "dense.onnx", folder / "stored.onnx", lowering="dense", tune=False)
    return folder


sparse = pytest.mark.parametrize("name", ["blocks.onnx", "stored.onnx"])


def inputs() -> list[Array]:
    generator = np.random.default_rng(0)
    return [generator.standard_normal((*shape, WIDTH)).astype(np.float32) for shape in SHAPES]


def run(file: Path, kind: type = np.float32) -> list[Array]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return [session.run(None, {name: x.astype(kind)})[0] for x in inputs()]


def torchs(kind: torch.dtype = torch.float64) -> list[Array]:
    with torch.no_grad():
        return [Block().eval().to(kind)(torch.from_numpy(x).to(kind)).numpy() for x in inputs()]


def error(found: list[Array], wanted: list[Array]) -> float:
    """The largest difference, relative to the largest value, at any of the shapes."""
    assert [y.shape for y in found] == [y.shape for y in wanted]
    return max(
        float(np.abs(y.astype(np.float64) - y_ref).max() / np.abs(y_ref).max())
        for y, y_ref in zip(found, wanted, strict=True)
    )


def operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def size(file: Path) -> int:
    return file.stat().st_size


@sparse
def test_the_sparse_files_are_smaller_and_right(folder: Path, name: str) -> None:
    assert size(folder / name) < 0.3 * size(folder / "dense.onnx")
    assert error(run(folder / name), torchs()) < FLOAT


@sparse
def test_openvino(folder: Path, name: str) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    compiled = openvino.Core().compile_model(folder / name, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert error([compiled([x])[0] for x in inputs()], torchs()) < FLOAT


@sparse
def test_onnxruntime_on_the_web(folder: Path, name: str) -> None:
    assert error(on_the_web(folder / name), torchs()) < FLOAT


def test_8_bit_on_the_web(folder: Path, tmp_path: Path) -> None:
    quantize_dynamic(folder / "dense.onnx", tmp_path / "8bit.onnx")
    kx.sparsify_onnx(tmp_path / "8bit.onnx", tmp_path / "sparse.onnx", lowering="blocks", tune=False)
    assert error(on_the_web(tmp_path / "sparse.onnx"), run(tmp_path / "8bit.onnx")) < ONE_STEP


def on_the_web(file: Path) -> list[Array]:
    """What onnxruntime's WebAssembly build answers under node."""
    if shutil.which("node") is None or not (WASM / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("needs node, and `npm install --prefix tests/wasm`")
    feeds = json.dumps([{"dims": x.shape, "data": x.ravel().tolist()} for x in inputs()])
    done = subprocess.run(["node", WASM / "run.mjs", file], input=feeds, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [np.array(y["data"]).reshape(y["dims"]) for y in json.loads(done.stdout)]


@sparse
def test_half_precision_after(folder: Path, tmp_path: Path, name: str) -> None:
    onnx.save(convert_float_to_float16(onnx.load(folder / name)), tmp_path / "half.onnx")
    onnx.checker.check_model(tmp_path / "half.onnx", full_check=True)
    assert size(tmp_path / "half.onnx") < 0.7 * size(folder / name)
    found = run(tmp_path / "half.onnx", np.float16)
    assert {y.dtype for y in found} == {np.dtype(np.float16)}
    assert error(found, torchs()) < HALF


def test_half_precision_before(folder: Path, tmp_path: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(folder / "dense.onnx")), tmp_path / "half.onnx")
    kx.sparsify_onnx(tmp_path / "half.onnx", tmp_path / "sparse.onnx", lowering="blocks", tune=False)
    assert size(tmp_path / "sparse.onnx") < 0.4 * size(tmp_path / "half.onnx")
    assert error(run(tmp_path / "sparse.onnx", np.float16), torchs()) < HALF


@pytest.mark.parametrize(
    ("lowering", "weights"),
    [("blocks", QuantType.QInt8), ("blocks", QuantType.QUInt8), ("dense", QuantType.QInt8)],
)
def test_dynamic_quantization_before(folder: Path, tmp_path: Path, lowering: str, weights: QuantType) -> None:
    """The way to 8 bits: the products stay 8-bit, activations are quantized once a tensor, before they are gathered."""
    quantize_dynamic(folder / "dense.onnx", tmp_path / "8bit.onnx", weight_type=weights)
    kx.sparsify_onnx(tmp_path / "8bit.onnx", tmp_path / "sparse.onnx", lowering=lowering, tune=False)
    assert size(tmp_path / "sparse.onnx") < 0.7 * size(tmp_path / "8bit.onnx")
    before, after = operators(tmp_path / "8bit.onnx"), operators(tmp_path / "sparse.onnx")
    assert after["MatMulInteger"] >= before["MatMulInteger"] == 2
    assert after["DynamicQuantizeLinear"] == before["DynamicQuantizeLinear"]
    assert after["MatMul"] == 0
    found = run(tmp_path / "sparse.onnx")
    assert error(found, run(tmp_path / "8bit.onnx")) < ONE_STEP
    assert FLOAT < error(found, torchs()) < EIGHT_BIT


def test_dynamic_quantization_after(folder: Path, tmp_path: Path) -> None:
    """It takes constants on the right only, so by itself it lets the products of blocks be."""
    quantize_dynamic(folder / "blocks.onnx", tmp_path / "8bit.onnx")
    assert operators(tmp_path / "8bit.onnx")["MatMul"] == operators(folder / "blocks.onnx")["MatMul"]
    assert error(run(tmp_path / "8bit.onnx"), torchs()) < FLOAT


def test_dynamic_quantization_after_of_constants_on_the_left(folder: Path, tmp_path: Path) -> None:
    either_side = {"MatMulConstBOnly": False}
    quantize_dynamic(
        folder / "blocks.onnx", tmp_path / "8bit.onnx", weight_type=QuantType.QUInt8, extra_options=either_side
    )
    assert operators(tmp_path / "8bit.onnx")["MatMul"] == 0
    assert size(tmp_path / "8bit.onnx") < size(folder / "blocks.onnx")
    assert FLOAT < error(run(tmp_path / "8bit.onnx"), torchs()) < EIGHT_BIT


def test_dynamic_quantization_of_stored_weights(folder: Path, tmp_path: Path) -> None:
    """onnxruntime's preparation rebuilds the weights, quantization takes them, and they are stored sparse again."""
    quant_pre_process(folder / "stored.onnx", tmp_path / "prepared.onnx")
    quantize_dynamic(tmp_path / "prepared.onnx", tmp_path / "8bit.onnx")
    assert operators(tmp_path / "8bit.onnx")["MatMulInteger"] == 2
    kx.sparsify_onnx(tmp_path / "8bit.onnx", tmp_path / "sparse.onnx", lowering="dense", tune=False)
    assert size(tmp_path / "sparse.onnx") < size(folder / "stored.onnx")
    assert error(run(tmp_path / "sparse.onnx"), run(tmp_path / "8bit.onnx")) < ONE_STEP


def test_dynamic_quantization_of_stored_weights_without_preparation(folder: Path, tmp_path: Path) -> None:
    """It finds no constant to quantize but products all the same: weights are quantized when the session loads."""
    quantize_dynamic(folder / "stored.onnx", tmp_path / "8bit.onnx")
    assert error(run(tmp_path / "8bit.onnx"), torchs()) < EIGHT_BIT


class Calibration(CalibrationDataReader):
    """The test's own inputs."""

    def __init__(self, file: Path) -> None:
        name = onnx.load(file).graph.input[0].name
        self.feeds: Iterator[dict[str, Array]] = iter([{name: x} for x in inputs()])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def products_only(src: Path, dst: Path) -> None:
    quantize_static(src, dst, Calibration(src), op_types_to_quantize=["MatMul", "Gemm"])


def unsigned(src: Path, dst: Path) -> None:
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
    quantize_static(src, dst, Calibration(src), **kinds)


def by_default(src: Path, dst: Path) -> None:
    quantize_static(src, dst, Calibration(src))


@pytest.mark.parametrize("quantize", [by_default, products_only, unsigned])
def test_static_quantization_after(folder: Path, tmp_path: Path, quantize: Callable[[Path, Path], None]) -> None:
    """Constants of either side are taken, and the gathers in between move 8-bit activations."""
    quantize(folder / "blocks.onnx", tmp_path / "8bit.onnx")
    assert operators(tmp_path / "8bit.onnx")["DequantizeLinear"] > operators(tmp_path / "8bit.onnx")["MatMul"]
    quantize(folder / "dense.onnx", tmp_path / "dense.onnx")
    found, dense = error(run(tmp_path / "8bit.onnx"), torchs()), error(run(tmp_path / "dense.onnx"), torchs())
    assert FLOAT < found < EIGHT_BIT
    assert found < 2 * dense


@pytest.mark.parametrize("quantize", [by_default, products_only, unsigned])
def test_static_quantization_before(folder: Path, tmp_path: Path, quantize: Callable[[Path, Path], None]) -> None:
    quantize(folder / "dense.onnx", tmp_path / "8bit.onnx")
    kx.sparsify_onnx(tmp_path / "8bit.onnx", tmp_path / "sparse.onnx", lowering="blocks", tune=False)
    assert error(run(tmp_path / "sparse.onnx"), run(tmp_path / "8bit.onnx")) < EIGHT_BIT
