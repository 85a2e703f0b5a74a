"""Dynamic quantization in onnxruntime's own nodes: the same product, lowered, and the same answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microsoft import fused_file
from onnx import TensorProto
from onnx_files import answers, assert_same, normal, ops, planted, runtime_ops, sparse
from onnx_spellings import many

SMALL = np.clip(np.rint(planted(128, 96, (16, 16), 0.85) * 300), -100, 100).astype(np.int16)


def weight(kind: type, point: int) -> dict[str, np.ndarray]:
    return {"w": (SMALL.T + point).astype(kind), "z": np.array(point, kind)}


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@settings(many, max_examples=15, deadline=None)
@given(
    kind=st.sampled_from([(np.int8, 0), (np.uint8, 121), (np.uint8, 128)]),
    each=st.booleans(),
    bias=st.booleans(),
    leading=st.sampled_from([("b",), ("b", "s")]),
)
def test_what_quantizes_its_input(
    tmp_path: Path, lowering: str, kind: tuple[type, int], each: bool, bias: bool, leading: tuple[str, ...]
) -> None:
    scale = np.linspace(0.01, 0.02, 128, dtype=np.float32) if each else np.array(0.01, np.float32)
    held = weight(*kind) | {"s": scale} | ({"c": normal(128, seed=1)} if bias else {})
    if each:
        held["z"] = np.full(128, held["z"])
    inputs = ["x", "w", "s", "z", *("c" * bias)]
    src = fused_file(tmp_path / "m.onnx", "DynamicQuantizeMatMul", inputs, (*leading, 96), (*leading, 128), {}, **held)
    dst, report = sparse(src, lowering)
    (layer,) = report.layers
    assert (layer.lowering, layer.zero_blocks > 0) == (lowering, True)
    assert layer.bytes <= 0.35 * layer.dense_bytes
    assert "DynamicQuantizeMatMul" not in ops(dst)
    x = normal(*(3, 5)[: len(leading)], 96)
    assert_same(answers(dst, x=x)[0], answers(src, x=x)[0], 1e-6)


def test_what_stays_dense_runs_as_it_did(tmp_path: Path) -> None:
    """onnxruntime makes one node of it again."""
    held = weight(np.int8, 0) | {"s": np.array(0.01, np.float32)}
    src = fused_file(tmp_path / "m.onnx", "DynamicQuantizeMatMul", "xwsz", ("b", 96), ("b", 128), {}, **held)
    dst, _ = sparse(src, "dense")
    assert runtime_ops(dst, tmp_path) == runtime_ops(src, tmp_path)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize("x_kind", [np.uint8, np.int8])
@pytest.mark.parametrize("bias", [False, True])
def test_what_gets_its_input_quantized(tmp_path: Path, lowering: str, x_kind: Any, bias: bool) -> None:
    held = {"xs": np.array(0.1, np.float32), "s": np.array(0.01, np.float32), "xz": np.array(3, x_kind)}
    held |= weight(np.int8, 0) | ({"c": normal(128, seed=1)} if bias else {})
    kinds = (TensorProto.UINT8 if x_kind is np.uint8 else TensorProto.INT8, TensorProto.FLOAT)
    inputs = ["x", "w", "xs", "s", "xz", "z", *("c" * bias)]
    dims = (("b", 96), ("b", 128))
    src = fused_file(tmp_path / "m.onnx", "MatMulIntegerToFloat", inputs, *dims, {}, kinds, **held)
    dst, report = sparse(src, lowering)
    assert [layer.lowering for layer in report.layers] == [lowering]
    x = np.random.default_rng(0).integers(0, 100, (5, 96)).astype(x_kind)
    assert_same(answers(dst, x=x)[0], answers(src, x=x)[0], 1e-6)
