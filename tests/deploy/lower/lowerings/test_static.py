"""Statically quantized products (QuantizeLinear, DequantizeLinear): stored as surviving blocks, run as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_files import answers, evaluated, normal, onnx_file, planted, runtime_ops, sparse
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import kronfx as kx

N, M = 48, 96


def quantized(x: str, y: str) -> str:
    return f"""
        {x}q = QuantizeLinear({x}, xs, xz)
        {y} = DequantizeLinear({x}q, xs, xz)
    """


def matmul(i: int, each: bool) -> str:
    return f"""
        f{i} = DequantizeLinear{"<axis = 1>" if each else ""}(w{i}, s{i}, z{i})
        y{i} = MatMul(h{i}, f{i})
    """


def gemm_with_bias(i: int, each: bool) -> str:
    along = "<axis = 0>" if each else ""
    return f"""
        f{i} = DequantizeLinear{along}(w{i}, s{i}, z{i})
        c{i} = DequantizeLinear{along}(b{i}, bs{i})
        y{i} = Gemm<transB = 1>(h{i}, f{i}, c{i})
    """


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
    layer = gemm_with_bias if gemm else matmul
    nodes = [quantized("x", "h0"), layer(0, each), "r = Relu(y0)", quantized("r", "h1"), layer(1, each)]
    constants: dict[str, np.ndarray] = {"xs": np.array(0.03, np.float32), "xz": x_zero}
    for i, (m, n) in enumerate(((M, N), (N, M))):
        W = planted(m, n, (8, 8), zero, i) if gemm else planted(m, n, (8, 8), zero, i).T
        along = 0 if gemm else 1
        largest = np.abs(W).max(axis=1 - along, initial=0.1) if each else np.array(np.abs(W).max(initial=0.1))
        scale = (largest / 127).astype(np.float32)
        q = np.rint(W / (np.expand_dims(scale, 1 - along) if each else scale)).astype(int) + int(w_zero)
        bias = np.arange(-m // 2, m - m // 2) * 50
        constants |= {f"w{i}": q.astype(w_type), f"s{i}": scale, f"z{i}": np.full(scale.shape, w_zero, w_type)}
        constants |= {f"b{i}": bias.astype(np.int32), f"bs{i}": (np.float32(0.03) * largest / 127).astype("f")}
    dims = "b, 48" if gemm else "b, s, 48"
    return onnx_file(folder / "static.onnx", f"float[{dims}] x => float[{dims}] y1", *nodes, opset=21, **constants)


def given_x(rank: int) -> dict[str, np.ndarray]:
    return {"x": normal(*(3, 5, N)[3 - rank :])}


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
    assert len(report.layers) == 2
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
        self.batches = iter([{"x": normal(2, 5, N, seed=seed)} for seed in range(10)])

    def get_next(self) -> Any:
        return next(self.batches, None)


@pytest.mark.parametrize("each", [False, True])
def test_what_onnxruntimes_own_quantizer_writes(tmp_path: Path, each: bool) -> None:
    """q, k and v of one input, a bias each, a residual sum: through the public function, verified by it."""
    nodes = """
        m0 = MatMul(x, w0)
        m1 = MatMul(x, w1)
        m2 = MatMul(x, w2)
        a0 = Add(m0, c0)
        a1 = Add(m1, c1)
        a2 = Add(m2, c2)
        p = Mul(a0, a1)
        r = Add(p, a2)
        o = MatMul(r, w3)
        y = Add(o, x)
    """
    constants = {f"w{i}": planted(N, N, seed=i).T for i in range(4)}
    constants |= {f"c{i}": np.linspace(-1, 1, N, dtype=np.float32) for i in range(3)}
    src = onnx_file(tmp_path / "m.onnx", "float[b, s, 48] x => float[b, s, 48] y", nodes, **constants)
    dst = tmp_path / "q.onnx"
    quantize_static(src, dst, Random(), QuantFormat.QDQ, activation_type=QuantType.QUInt8, per_channel=each)
    report = kx.sparsify_onnx(dst, tmp_path / "s.onnx", batch_sizes=(1, 3))
    assert [layer.lowering for layer in report.layers] == ["dense"] * 4
    assert report.max_error == 0
    assert sum(layer.bytes for layer in report.layers) <= 0.4 * 4 * N * N
