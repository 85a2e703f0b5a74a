"""``Gemm``, ``FusedGemm`` and ``FusedMatMul`` with every attribute that they have, against numpy in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microsoft import fused_file
from onnx_files import FLOAT32, FLOATS, answers, assert_same, axes, normal, onnx_file, ops, planted, sparse
from onnx_spellings import TOLERANCES, hold, many

ACTIVATIONS: dict[str, Any] = {
    "Relu": lambda y: np.maximum(y, 0),
    "LeakyRelu": lambda y: np.where(y < 0, 0.3 * y, y),
    "Sigmoid": lambda y: 1 / (1 + np.exp(-y)),
    "Tanh": np.tanh,
}
scales = st.sampled_from([0.5, 1.0, -2.25, 0.0])
blocks = st.sampled_from([(3, 5), (8, 4), (1, 7)])
lowerings = pytest.mark.parametrize("lowering", ["dense", "blocks"])


def product(a: np.ndarray, b: np.ndarray, turned: tuple[bool, bool]) -> np.ndarray:
    """``A B`` in float64, the last axes of either swapped first."""
    left, right = (
        z.astype(float).swapaxes(-1, -2) if t else z.astype(float) for z, t in zip((a, b), turned, strict=True)
    )
    return left @ right


@lowerings
@settings(many, max_examples=40, deadline=None)
@given(
    turned=st.tuples(st.booleans(), st.booleans()),
    on_the_left=st.booleans(),
    alpha=scales,
    beta=scales,
    bias=st.sampled_from([None, "", "1", "11", "m", "1m", "S1", "Sm"]),
    computed=st.booleans(),
    block=blocks,
    zero=st.sampled_from([0.3, 0.75, 1.0]),
    rows=st.integers(1, 5),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)
def test_gemm(
    tmp_path: Path,
    lowering: str,
    turned: tuple[bool, bool],
    on_the_left: bool,
    alpha: float,
    beta: float,
    bias: str | None,
    computed: bool,
    block: tuple[int, int],
    zero: float,
    rows: int,
    dtype: Any,
) -> None:
    m, n = 6 * block[0], 5 * block[1]
    W, free = planted(m, n, block, zero, dtype=dtype), normal(rows, n, dtype=dtype)
    if on_the_left:
        w, x = W.T if turned[0] else W, free if turned[1] else free.T
        operands, wanted, height, width = "w, x", product(w, x, turned), m, rows
    else:
        w, x = W if turned[1] else W.T, free.T if turned[0] else free
        operands, wanted, height, width = "x, w", product(x, w, turned), rows, m
    constants: dict[str, np.ndarray] = {"w": w}
    nodes = ""
    if bias is not None:
        c = normal(*({"1": 1, "m": width, "S": height}[axis] for axis in bias), dtype=dtype)
        constants["c"] = c
        operands += ", d" if computed else ", c"
        nodes = "d = Neg(c)" if computed else ""
        wanted = alpha * wanted + beta * (-c if computed else c).astype(float)
    else:
        wanted = alpha * wanted
    attributes = f"alpha={alpha}, beta={beta}, transA={int(turned[0])}, transB={int(turned[1])}"
    kind = FLOATS[np.dtype(dtype).name]
    signature = f"{kind}[{axes(*x.shape)}] x => {kind}[{height}, {width}] y"
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, f"y = Gemm<{attributes}>({operands})", **constants)
    dst, report = sparse(src, lowering, block=block)
    assert [layer.lowering for layer in report.layers] == [lowering]
    assert report.left == ()
    hold(src, dst, x, wanted, TOLERANCES[dtype])


@lowerings
@settings(many, max_examples=25, deadline=None)
@given(
    turned=st.tuples(st.booleans(), st.booleans()),
    on_the_left=st.booleans(),
    alpha=scales,
    leading=st.sampled_from([(), (2,), (2, 3)]),
    block=blocks,
)
def test_fused_matmul(
    tmp_path: Path,
    lowering: str,
    turned: tuple[bool, bool],
    on_the_left: bool,
    alpha: float,
    leading: tuple[int, ...],
    block: tuple[int, int],
) -> None:
    m, n = 6 * block[0], 5 * block[1]
    W, rows = planted(m, n, block), 4
    if on_the_left:
        w, x = W.T if turned[0] else W, normal(*leading, *((rows, n) if turned[1] else (n, rows)))
        wanted, dims = product(w, x, turned), (*leading, m, rows)
    else:
        w, x = W if turned[1] else W.T, normal(*leading, *((n, rows) if turned[0] else (rows, n)))
        wanted, dims = product(x, w, turned), (*leading, rows, m)
    inputs = ["w", "x"] if on_the_left else ["x", "w"]
    attributes = {"alpha": alpha, "transA": int(turned[0]), "transB": int(turned[1])}
    src = fused_file(tmp_path / "m.onnx", "FusedMatMul", inputs, x.shape, dims, attributes, w=w)
    dst, report = sparse(src, lowering, block=block)
    assert [layer.lowering for layer in report.layers] == [lowering]
    assert_same(answers(dst, x=x)[0], alpha * wanted, FLOAT32)


@lowerings
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("zero", [0.5, 0.95])
def test_fused_gemm(tmp_path: Path, lowering: str, activation: str, zero: float) -> None:
    W, c, x = planted(48, 40, zero=zero), normal(48, seed=1), normal(5, 40)
    attributes: dict[str, Any] = {"alpha": 0.5, "beta": 2.0, "transB": 1, "activation": activation}
    if activation == "LeakyRelu":
        attributes["activation_alpha"] = 0.3
    src = fused_file(tmp_path / "m.onnx", "FusedGemm", ["x", "w", "c"], x.shape, (5, 48), attributes, w=W, c=c)
    dst, report = sparse(src, lowering, block=(8, 8))
    assert [layer.lowering for layer in report.layers] == [lowering]
    wanted = ACTIVATIONS[activation](0.5 * x.astype(float) @ W.T + 2.0 * c)
    assert_same(answers(dst, x=x)[0], wanted, FLOAT32)


def test_what_is_timed_alone_is_the_node_itself(tmp_path: Path) -> None:
    """Layers are timed one by one, each in a graph of its own: with what is behind it, and with ``x`` as it is."""
    W, x = planted(64, 96, (16, 16)), normal(96, 5)
    node = "y = Gemm<alpha=0.5, transA=1, transB=1>(x, w, c)"
    src = onnx_file(tmp_path / "m.onnx", "float[96, 5] x => float[5, 64] y", node, w=W, c=normal(5, 64))
    dst, report = sparse(src, "auto", tune=True)
    assert "refused" not in report.layers[0].why.replace("factors refused", "")
    assert "by the clock" in report.layers[0].why
    assert_same(answers(dst, x=x)[0], answers(src, x=x)[0], FLOAT32)
    assert "Gemm" in ops(src)


def test_an_activation_nobody_knows_is_a_reason(tmp_path: Path) -> None:
    W = planted(64, 64, (16, 16))
    attributes = {"activation": "ScaledTanh", "activation_alpha": 1.0, "activation_beta": 1.0}
    src = fused_file(tmp_path / "m.onnx", "FusedGemm", ["x", "w", "c"], (5, 64), (5, 64), attributes, w=W, c=W[0])
    (layer,) = sparse(src)[1].layers
    assert layer.why == "only stored in blocks: FusedGemm ends in an activation that kronfx does not know (ScaledTanh)"
