"""Statically quantized products (QuantizeLinear, DequantizeLinear): stored as surviving blocks, run as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_files import Node, answers, evaluated, onnx_file, planted, runtime_ops, sparse
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import kronfx as kx

N, M = 48, 96


def static(
    folder: Path,
    x_type: type = np.uint8,
    w_type: type = np.int8,
    each: bool = False,
    gemm: bool = False,
    zero: float = 0.75,
) -> Path:
    """Two layers with a Relu between them, everything quantized, by hand."""
    x_zero, w_zero = np.array(3, x_type), np.array(0 if w_type is np.int8 else 128, w_type)
    nodes: list[Node] = [("QuantizeLinear", "x xs xz", "xq"), ("DequantizeLinear", "xq xs xz", "h0")]
    constants: dict[str, np.ndarray] = {"xs": np.array(0.03, np.float32), "xz": x_zero}
    for i, (m, n) in enumerate(((M, N), (N, M))):
        W = planted(m, n, (8, 8), zero, i) if gemm else planted(m, n, (8, 8), zero, i).T
        along = 0 if gemm else 1
        largest = np.abs(W).max(axis=1 - along, initial=0.1) if each else np.array(np.abs(W).max(initial=0.1))
        scale = (largest / 127).astype(np.float32)
        q = np.rint(W / (np.expand_dims(scale, 1 - along) if each else scale)).astype(int) + int(w_zero)
        zeros = np.full(scale.shape, w_zero, w_type)
        constants |= {f"w{i}": q.astype(w_type), f"s{i}": scale, f"z{i}": zeros}
        nodes.append(("DequantizeLinear", f"w{i} s{i} z{i}", f"f{i}", {"axis": along} if each else {}))
        if gemm:
            bias = np.arange(-m // 2, m - m // 2) * 50
            constants |= {f"b{i}": bias.astype(np.int32), f"bs{i}": (np.float32(0.03) * largest / 127).astype("f")}
            nodes.append(("DequantizeLinear", f"b{i} bs{i}", f"c{i}", {"axis": 0} if each else {}))
            nodes.append(("Gemm", f"h{i} f{i} c{i}", f"y{i}", {"transB": 1}))
        else:
            nodes.append(("MatMul", f"h{i} f{i}", f"y{i}"))
        if i == 0:
            nodes += [("Relu", "y0", "r"), ("QuantizeLinear", "r xs xz", "rq"), ("DequantizeLinear", "rq xs xz", "h1")]
    dims: list[Any] = ["b", N] if gemm else ["b", "s", N]
    return onnx_file(folder / "static.onnx", nodes, {"x": dims}, {"y1": dims}, constants, opset=21)


def given_x(rank: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((3, 5, N)[3 - rank :]).astype(np.float32)}


@settings(max_examples=24, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x_type=st.sampled_from([np.uint8, np.int8]),
    w_type=st.sampled_from([np.int8, np.uint8]),
    each=st.booleans(),
    gemm=st.booleans(),
    zero=st.sampled_from([0.5, 0.75, 0.99, 1.0]),
)
@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_every_spelling_computes_the_same(
    tmp_path: Path, lowering: str, x_type: type, w_type: type, each: bool, gemm: bool, zero: float
) -> None:
    src = static(tmp_path, x_type, w_type, each, gemm, zero)
    dst, report = sparse(src, lowering, block=(8, 8))
    assert {layer.lowering for layer in report.layers} <= {"dense"}
    assert len(report.layers) == (0 if each and w_type is np.uint8 else 2)  # nothing is zero where each row has its own
    onnx.checker.check_model(str(dst), full_check=True)
    feeds = given_x(2 if gemm else 3)
    np.testing.assert_array_equal(answers(dst, **feeds)[0], answers(src, **feeds)[0])
    np.testing.assert_array_equal(evaluated(dst, **feeds)[0], evaluated(src, **feeds)[0])


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("gemm", [False, True])
def test_survivors_only_and_fused_as_before(tmp_path: Path, gemm: bool, each: bool) -> None:
    """They are spread before onnxruntime looks for quantized products."""
    src = static(tmp_path, gemm=gemm, each=each, zero=0.9)
    dst, report = sparse(src, block=(8, 8))
    assert sum(layer.bytes for layer in report.layers) <= 0.15 * 2 * M * N
    assert dst.stat().st_size < src.stat().st_size - 0.5 * 2 * M * N
    assert runtime_ops(dst, tmp_path) == runtime_ops(src, tmp_path)


class Random(CalibrationDataReader):
    """Ten random batches to calibrate with."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        self.batches = iter([{"x": rng.standard_normal((2, 5, N)).astype(np.float32)} for _ in range(10)])

    def get_next(self) -> Any:
        return next(self.batches, None)


@pytest.mark.parametrize("each", [False, True])
def test_what_onnxruntimes_own_quantizer_writes(tmp_path: Path, each: bool) -> None:
    """q, k and v of one input, a bias each, a residual sum: through the public function, verified by it."""
    nodes: list[Node] = [(op, f"x w{i}", f"m{i}") for i, op in enumerate(["MatMul"] * 3)]
    nodes += [("Add", f"m{i} c{i}", f"a{i}") for i in range(3)]
    nodes += [("Mul", "a0 a1", "p"), ("Add", "p a2", "r"), ("MatMul", "r w3", "o"), ("Add", "o x", "y")]
    constants = {f"w{i}": planted(N, N, (8, 8), 0.75, i).T for i in range(4)}
    constants |= {f"c{i}": np.linspace(-1, 1, N, dtype=np.float32) for i in range(3)}
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", "s", N]}, {"y": ["b", "s", N]}, constants)
    quantized = tmp_path / "q.onnx"
    quantize_static(src, quantized, Random(), QuantFormat.QDQ, activation_type=QuantType.QUInt8, per_channel=each)
    report = kx.sparsify_onnx(quantized, tmp_path / "s.onnx", batch_sizes=(1, 3))
    assert [layer.lowering for layer in report.layers] == ["dense"] * 4
    assert report.max_error == 0
    assert sum(layer.bytes for layer in report.layers) <= 0.4 * 4 * N * N
