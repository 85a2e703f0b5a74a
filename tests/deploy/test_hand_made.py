"""Graphs as anybody may have written them: constants, inputs, outputs and names of every kind, in every opset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import answers, assert_same, constants, onnx_file, ops, planted, simple, sparse

import kronfx as kx


def test_a_model_with_nothing_sparse(tmp_path: Path) -> None:
    src = simple(tmp_path, zero=0.0)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", rows=1)
    assert [(layer.lowering, layer.zero_blocks) for layer in report.layers] == [("dense", 0)]
    assert ops(tmp_path / "out.onnx") == ["MatMul"]
    assert report.timings.entries == ()  # nothing to choose, nothing to time
    assert report.bytes <= src.stat().st_size + 300


def test_a_model_with_no_weight_at_all(tmp_path: Path) -> None:
    src = onnx_file(tmp_path / "m.onnx", [("Relu", "x", "y")], {"x": ["b", 4]}, {"y": ["b", 4]}, {})
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", tune=False)
    assert report.layers == ()
    assert "no linear layer" in str(report)
    assert ops(tmp_path / "out.onnx") == ["Relu"]


def test_a_model_without_inputs(tmp_path: Path) -> None:
    """Everything is constant: it folds to its answer."""
    W, x = planted(48, 64, (8, 8)), np.ones((3, 64), "f")
    src = onnx_file(tmp_path / "m.onnx", [("MatMul", "x w", "y")], {}, {"y": [3, 48]}, {"w": W.T, "x": x})
    kx.sparsify_onnx(src, tmp_path / "out.onnx", tune=False)
    assert_same(answers(tmp_path / "out.onnx")[0], x.astype(float) @ W.T, 1e-5)
    random = [
        ("RandomNormal", "", "x", {"shape": [3, 64], "seed": 1.0}),
        ("Mul", "x zero", "z"),
        ("MatMul", "z w", "y"),
    ]
    src = onnx_file(tmp_path / "r.onnx", random, {}, {"y": [3, 48]}, {"w": W.T, "zero": np.zeros(1, "f")})
    kx.sparsify_onnx(src, tmp_path / "out.onnx", lowering="blocks", tune=False)
    assert_same(answers(tmp_path / "out.onnx")[0], np.zeros((3, 48)))


def test_constants_that_are_nodes(tmp_path: Path) -> None:
    """Older exporters write weights as Constant nodes, turned by a Transpose of their own."""
    W = planted(48, 64, (8, 8))
    value = numpy_helper.from_array(W, "value")
    nodes = [("Constant", "", "c", {"value": value}), ("Transpose", "c", "w", {"perm": [1, 0]}), ("MatMul", "x w", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, {"y": ["b", 48]}, {})
    dst, report = sparse(src)
    assert [(layer.lowering, layer.block) for layer in report.layers] == [("blocks", (8, 8))]
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T, 1e-5)


@pytest.mark.parametrize("opset", [13, 17, 18, 21, 23])
def test_old_and_new_opsets(tmp_path: Path, opset: int) -> None:
    W = planted(48, 64, (8, 8))
    nodes = [("MatMul", "x w", "h"), ("Split", "h", "p q", {"axis": -1, **({"num_outputs": 2} if opset > 17 else {})})]
    out = {"p": ["b", 24], "q": ["b", 24]}
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, out, {"w": W.T}, opset=opset)
    dst, _ = sparse(src, verify=True)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(np.concatenate(answers(dst, x=x), 1), x.astype(float) @ W.T, 1e-5)
    assert next(entry.version for entry in onnx.load(dst).opset_import if entry.domain == "") == opset


def test_several_inputs_of_several_kinds(tmp_path: Path) -> None:
    W, table = planted(48, 64, (8, 8)), np.random.default_rng(0).standard_normal((2, 64)).astype("f")
    nodes = [
        ("Gather", "table ids", "e"),
        ("Cast", "attention_mask", "on", {"to": TensorProto.FLOAT}),
        ("Unsqueeze", "on last", "m"),
        ("Mul", "e m", "x"),
        ("Add", "x extra", "xe"),
        ("MatMul", "xe w", "h"),
        ("Where", "flag h zero", "y"),
    ]
    inputs = {"ids": ["b", "s"], "attention_mask": ["b", "s"], "extra": ["b", "s", 64], "flag": ["b", 1, 1]}
    types = {"ids": TensorProto.INT64, "attention_mask": TensorProto.INT32, "flag": TensorProto.BOOL}
    weights = {"w": W.T, "table": table, "last": np.array([-1]), "zero": np.zeros((), "f")}
    src = onnx_file(tmp_path / "m.onnx", nodes, inputs, {"y": ["b", "s", 48]}, weights, types)
    dst, report = sparse(src, verify=True)
    assert report.batch_sizes == (1, 7, 32)
    rng = np.random.default_rng(1)
    given = {
        "ids": rng.integers(0, 2, (3, 5)),
        "attention_mask": rng.integers(0, 2, (3, 5)).astype(np.int32),
        "extra": rng.standard_normal((3, 5, 64)).astype("f"),
        "flag": np.array([True, False, True])[:, None, None],
    }
    exact = (table[given["ids"]] * given["attention_mask"][..., None] + given["extra"]).astype(float) @ W.T
    assert_same(answers(dst, **given)[0], exact * given["flag"], 1e-5)


def test_an_initializer_that_several_kinds_of_nodes_read(tmp_path: Path) -> None:
    """An embedding tied to the head, as Gather and as Gemm."""
    W = planted(64, 48, (8, 8), 0.6)
    nodes = [("Gather", "w ids", "e"), ("Tanh", "e", "h"), ("Gemm", "h w", "y", {"transB": 1})]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"ids": ["b"]}, {"y": ["b", 64]}, {"w": W}, {"ids": TensorProto.INT64})
    ids = np.array([0, 9, 63])
    for lowering in ("dense", "blocks"):
        dst, _ = sparse(src, lowering, verify=True)
        assert_same(answers(dst, ids=ids)[0], np.tanh(W[ids].astype(float)) @ W.T, 1e-5)
        if lowering == "dense":
            assert constants(dst) <= np.count_nonzero(W) + 64  # and one block of zeros


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_an_initializer_that_is_also_an_output(tmp_path: Path, lowering: str) -> None:
    src = simple(tmp_path)
    model = onnx.load(src)
    model.graph.output.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 48]))
    onnx.save(model, src)
    dst, _ = sparse(src, lowering, verify=True)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    W = planted(48, 64, (8, 8))
    y, w = answers(dst, x=x)
    assert_same(y, x.astype(float) @ W.T, 1e-5)
    np.testing.assert_array_equal(w, W.T)
    assert [value.name for value in onnx.load(dst).graph.output] == ["y", "w"]


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_an_initializer_that_is_also_an_input(tmp_path: Path, lowering: str) -> None:
    """The caller can replace it, so it stays; that of the same value beside it does not."""
    W = planted(64, 64, (8, 8))
    nodes = [("MatMul", "x w", "h"), ("MatMul", "h v", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, {"y": ["b", 64]}, {"w": W.T, "v": W.T})
    model = onnx.load(src)
    model.graph.input.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, [64, 64]))
    onnx.save(model, src)
    dst, report = sparse(src, lowering, verify=True)
    assert [(layer.site, layer.lowering) for layer in report.layers] == [("w", lowering)]
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T @ W.T, 1e-5)
    V = np.random.default_rng(1).standard_normal((64, 64)).astype("f")
    assert_same(answers(dst, x=x, v=V)[0], x.astype(float) @ W.T @ V, 1e-5)


@pytest.mark.parametrize("name", ["w/0/blocks", "w/blocks", "w/gaps", "w/0/columns", "kronfx/8x8x-1", "kronfx/axis"])
@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_names_that_are_taken(tmp_path: Path, name: str, lowering: str) -> None:
    W, factor = planted(64, 64, (8, 8)), np.arange(64, dtype="f")
    nodes = [("MatMul", "x w", "h"), ("Mul", f"h {name}", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 64]}, {"y": ["b", 64]}, {"w": W.T, name: factor})
    dst, _ = sparse(src, lowering)
    x = np.random.default_rng(0).standard_normal((3, 64)).astype("f")
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T * factor, 1e-5)


@pytest.mark.xfail(strict=True, reason="a Reshape with 0 and -1 cannot take a batch of no rows")
def test_an_empty_batch(tmp_path: Path) -> None:
    W = planted(48, 64, (8, 8))
    src = onnx_file(
        tmp_path / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", "s", 64]}, {"y": ["b", "s", 48]}, {"w": W.T}
    )
    dst, _ = sparse(src)
    for dims in ((0, 5), (2, 0), (0, 0)):
        assert answers(dst, x=np.zeros((*dims, 64), "f"))[0].shape == (*dims, 48)
