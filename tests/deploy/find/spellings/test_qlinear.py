"""``QLinearMatMul``: lowered as itself, 8-bit numbers in and out; evaluators may differ by one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_files import answers, axes, evaluated, onnx_file, ops, planted, sparse
from onnx_spellings import many

import kronfx as kx
from kronfx.records import KroneckerShape

TYPES = {np.int8: "int8", np.uint8: "uint8"}


def qlinear(
    path: Path, W: np.ndarray, x_kind: Any, w_kind: Any, point: int, leading: tuple[Any, ...], **other: np.ndarray
) -> Path:
    """``y`` of 8-bit ``x [*leading, n]`` and the integers ``W [m, n]``, less ``point``."""
    m, n = W.shape
    held = {
        "xs": np.array(0.1, np.float32), "xz": np.array(3, x_kind),
        "w": (W.T + point).astype(w_kind), "s": np.array(0.02, np.float32), "z": np.array(point, w_kind),
        "ys": np.array(0.9, np.float32), "yz": np.array(10, x_kind),
    } | other  # fmt: skip
    kind = TYPES[x_kind]
    signature = f"{kind}[{axes(*leading, n)}] x => {kind}[{axes(*leading, m)}] y"
    return onnx_file(path, signature, "y = QLinearMatMul(x, xs, xz, w, s, z, ys, yz)", **held)


def integers(shape: KroneckerShape, zero: float) -> np.ndarray:
    mask = planted(shape.m, shape.n, shape.block, zero) != 0
    return np.random.default_rng(0).integers(-100, 101, mask.shape) * mask


sides = st.sampled_from([1, 2, 3, 5, 8])
KINDS = [(np.uint8, np.uint8, 121), (np.uint8, np.int8, 0), (np.int8, np.int8, 0), (np.int8, np.int8, 5)]


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@settings(many, max_examples=40, deadline=None)
@given(
    shape=st.builds(KroneckerShape, st.integers(1, 5), st.integers(1, 5), sides, sides),
    kinds=st.sampled_from(
        [(np.uint8, np.uint8, 121), (np.uint8, np.int8, 0), (np.int8, np.int8, 0), (np.int8, np.int8, 5)]
    ),
    leading=st.sampled_from([("b",), ("b", "s"), (2, "s")]),
    zero=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_the_same_to_a_step(
    tmp_path: Path, lowering: str, shape: KroneckerShape, kinds: Any, leading: Any, zero: float
) -> None:
    x_kind, w_kind, point = kinds
    W = integers(shape, zero)
    has_zeros = not W.reshape(shape.m1, shape.m2, shape.n1, shape.n2).any(axis=(1, 3)).all()
    src = qlinear(tmp_path / "m.onnx", W, x_kind, w_kind, point, leading)
    dst, report = sparse(src, lowering, block=shape.block)
    onnx.checker.check_model(str(dst), full_check=True)
    (layer,) = report.layers
    assert layer.lowering == (lowering if has_zeros else "dense")
    limits = np.iinfo(x_kind)
    x = np.random.default_rng(1).integers(limits.min, limits.max + 1, (*(2, 3)[: len(leading)], shape.n)).astype(x_kind)
    wanted = answers(src, x=x)[0]
    assert (answers(dst, x=x)[0] == wanted).all()
    assert np.abs(evaluated(dst, x=x)[0].astype(int) - wanted.astype(int)).max(initial=0) <= 1


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_it_is_8_bits_throughout(tmp_path: Path, kind: type) -> None:
    W = integers(KroneckerShape(8, 8, 16, 16), 0.85)
    src = qlinear(tmp_path / "m.onnx", W, kind, np.int8, 0, ("b",))
    dst, report = sparse(src)
    (layer,) = report.layers
    assert (layer.lowering, layer.block) == ("blocks", (16, 16))
    assert layer.bytes <= 0.25 * layer.dense_bytes
    assert {"MatMul", "MatMulInteger", "DequantizeLinear"}.isdisjoint(ops(dst))
    assert "QLinearMatMul" in ops(dst)
    verified = kx.sparsify_onnx(src, tmp_path / "s.onnx", rows=(16, 64))
    assert "does not run it here" not in str(verified)


def test_a_scale_a_column_is_a_reason(tmp_path: Path) -> None:
    W = integers(KroneckerShape(8, 8, 16, 16), 0.85)
    many_scales = {"s": np.linspace(0.01, 0.02, 128, dtype=np.float32), "z": np.zeros(128, np.int8)}
    src = qlinear(tmp_path / "m.onnx", W, np.uint8, np.int8, 0, ("b",), **many_scales)
    dst, report = sparse(src)
    (layer,) = report.layers
    why = "has a scale for each column, which onnxruntime does not take for a weight on the left"
    assert layer.why == f"only stored in blocks: QLinearMatMul {why}"
    assert layer.bytes <= 0.3 * layer.dense_bytes
    x = np.random.default_rng(1).integers(0, 256, (5, 128)).astype(np.uint8)
    np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])
