"""What is taken for a layer, and what is left alone with a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import answers, assert_same, onnx_file, ops, planted, simple, sparse
from onnx_spellings import SPELLINGS, written

import kronfx as kx


def test_a_block_that_divides_nothing_says_so(tmp_path: Path) -> None:
    """All weights stay dense, which is not what the caller hoped for."""
    src, dst = simple(tmp_path), tmp_path / "out.onnx"
    report = kx.sparsify_onnx(src, dst, block=(7, 9), tune=False)
    assert any("7x9" in note for note in report.notes)
    x = np.ones((2, 64), "f")
    np.testing.assert_allclose(answers(dst, x=x)[0], answers(src, x=x)[0], rtol=1e-5)


def test_bodies_are_left_alone_with_a_note(tmp_path: Path) -> None:
    W, V = planted(64, 64, (8, 8)), planted(64, 64, (8, 8), seed=1)
    out = [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    inner = [numpy_helper.from_array(np.ascontiguousarray(V.T), "v")]
    then = helper.make_graph([helper.make_node("MatMul", ["h", "v"], ["t"])], "then", [], out, inner)
    other = helper.make_graph([helper.make_node("MatMul", ["h", "w"], ["t"])], "other", [], out)
    nodes = [("MatMul", "x w", "h"), ("If", "flag", "y", {"then_branch": then, "else_branch": other})]
    inputs = {"x": ["b", 64], "flag": []}
    src = onnx_file(tmp_path / "m.onnx", nodes, inputs, {"y": ["b", 64]}, {"w": W.T}, {"flag": TensorProto.BOOL})
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering, verify=True)
        assert len(report.layers) == 1
        assert len(report.notes) == 1
        assert "If, Loop or Scan" in report.notes[0]
        assert report.notes[0] in str(report)
        for flag, last in ((True, V), (False, W)):
            assert_same(answers(dst, x=x, flag=np.array(flag))[0], x.astype(float) @ W.T @ last.T, 1e-5)


def test_nothing_zero_means_nothing_to_lower(tmp_path: Path) -> None:
    src = written(tmp_path, SPELLINGS["MatMul"], planted(48, 40, (8, 8), 0), np.zeros(48, np.float32))
    dst, report = sparse(src)
    assert [(layer.lowering, layer.block, layer.zero_blocks) for layer in report.layers] == [("dense", None, 0)]
    assert ops(dst) == ["MatMul"]
    assert report.bytes <= src.stat().st_size + 300  # kronfx's record


@pytest.mark.parametrize("kind", ["stride", "pads", "alpha", "transA", "both computed"])
def test_what_is_no_such_product_is_left_alone(tmp_path: Path, kind: str) -> None:
    W = planted(48, 48, (8, 8), 0.6)
    convolution = ({"x": [2, 48, 6]}, {"y": [2, 48, None]}, {"w": W[..., None]})
    matrix = ({"x": [48, 48]}, {"y": [48, 48]}, {"w": W})
    node, parts = {
        "stride": (("Conv", "x w", "y", {"strides": [2]}), convolution),
        "pads": (("Conv", "x w", "y", {"pads": [1, 1]}), convolution),
        "alpha": (("Gemm", "x w", "y", {"alpha": 2.0}), matrix),
        "transA": (("Gemm", "x w", "y", {"transA": 1}), matrix),
        "both computed": (("MatMul", "x x", "y"), ({"x": [48, 48]}, {"y": [48, 48]}, {})),
    }[kind]
    src = onnx_file(tmp_path / "m.onnx", [node], *parts)
    dst, report = sparse(src)
    assert report.layers == ()
    assert ops(dst) == [node[0]]
    x = np.random.default_rng(0).standard_normal(parts[0]["x"]).astype(np.float32)
    np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])
