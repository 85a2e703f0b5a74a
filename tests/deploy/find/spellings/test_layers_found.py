"""What is taken for a layer, and what is left alone with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_files import answers, assert_same, normal, onnx_file, ops, planted, product, sparse

import kronfx as kx


def test_a_block_that_divides_nothing_says_so(tmp_path: Path) -> None:
    """All weights stay dense, which is not what the caller hoped for."""
    src, dst = product(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    report = kx.sparsify_onnx(src, dst, block=(7, 9), tune=False)
    assert any("7x9" in note for note in report.notes)
    x = np.ones((2, 64), "f")
    np.testing.assert_allclose(answers(dst, x=x)[0], answers(src, x=x)[0], rtol=1e-5)


def test_bodies_are_left_alone_with_a_note(tmp_path: Path) -> None:
    W, V = planted(64, 64), planted(64, 64, seed=1)
    nodes = """
        h = MatMul(x, w)
        y = If(flag)<
            then_branch = first () => (float[b, 64] t) { t = MatMul(h, v) },
            else_branch = other () => (float[b, 64] e) { e = MatMul(h, w) }
        >
    """
    src = onnx_file(tmp_path / "m.onnx", "float[b, 64] x, bool flag => float[b, 64] y", nodes, w=W.T, v=V.T)
    x = normal(3, 64)
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering, verify=True)
        assert len(report.layers) == 1
        assert len(report.notes) == 1
        assert "If, Loop or Scan" in report.notes[0]
        assert report.notes[0] in str(report)
        for flag, last in ((True, V), (False, W)):
            assert_same(answers(dst, x=x, flag=np.array(flag))[0], x.astype(float) @ W.T @ last.T, 1e-5)


def test_nothing_zero_means_nothing_to_lower(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx", planted(48, 40, zero=0))
    dst, report = sparse(src)
    assert [(layer.lowering, layer.block, layer.zero_blocks) for layer in report.layers] == [("dense", None, 0)]
    assert ops(dst) == ["MatMul"]
    assert report.bytes <= src.stat().st_size + 300  # kronfx's record


MATRIX = "float[48, 48] x => float[48, 48] y"


@pytest.mark.parametrize(
    ("op", "signature", "node"),
    [
        ("Conv", "float[2, 8, 6] x => float[2, 16, ?] y", "y = Conv<pads = [1, 1]>(x, w)"),
        ("MatMul", MATRIX, "y = MatMul(x, x)"),
    ],
)
def test_what_is_no_such_product_is_left_alone(tmp_path: Path, op: str, signature: str, node: str) -> None:
    src = onnx_file(
        tmp_path / "m.onnx", signature, node, w=planted(16, 8)[..., None]
    )  # too little to be stored in blocks
    dst, report = sparse(src)
    assert report.layers == ()
    assert ops(dst) == [op]
    x = normal(2, 8, 6) if op == "Conv" else normal(48, 48)
    np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])
