"""Graphs as anybody may have written them: constants, inputs, outputs and names of every kind, in every opset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_files import SMALL, answers, assert_same, constants, normal, onnx_file, ops, planted, product, sparse

import kronfx as kx


def test_a_model_with_nothing_sparse(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx", planted(48, 64, zero=0))
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", rows=1)
    assert [(layer.lowering, layer.zero_blocks) for layer in report.layers] == [("dense", 0)]
    assert ops(tmp_path / "out.onnx") == ["MatMul"]
    assert report.timings.entries == ()  # nothing to choose, nothing to time
    assert report.bytes <= src.stat().st_size + 300


def test_a_model_with_no_weight_at_all(tmp_path: Path) -> None:
    src = onnx_file(tmp_path / "m.onnx", "float[b, 4] x => float[b, 4] y", "y = Relu(x)")
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", tune=False)
    assert report.layers == ()
    assert "no linear layer" in " ".join(str(report).split())
    assert ops(tmp_path / "out.onnx") == ["Relu"]


def test_a_model_without_inputs(tmp_path: Path) -> None:
    """Everything is constant: it folds to its answer."""
    x = np.ones((3, 64), "f")
    src = onnx_file(tmp_path / "m.onnx", " => float[3, 48] y", "y = MatMul(x, w)", w=SMALL.T, x=x)
    kx.sparsify_onnx(src, tmp_path / "out.onnx", tune=False)
    assert_same(answers(tmp_path / "out.onnx")[0], x.astype(float) @ SMALL.T, 1e-5)
    random = """
        x = RandomNormal<shape = [3, 64], seed = 1.0>()
        z = Mul(x, zero)
        y = MatMul(z, w)
    """
    src = onnx_file(tmp_path / "r.onnx", " => float[3, 48] y", random, w=SMALL.T, zero=np.zeros(1, "f"))
    kx.sparsify_onnx(src, tmp_path / "out.onnx", lowering="blocks", tune=False)
    assert_same(answers(tmp_path / "out.onnx")[0], np.zeros((3, 48)))


def test_constants_that_are_nodes(tmp_path: Path) -> None:
    """Older exporters write weights as Constant nodes, turned by a Transpose of their own."""
    nodes = """
        w = Transpose<perm = [1, 0]>(c)
        y = MatMul(x, w)
    """
    src = onnx_file(tmp_path / "m.onnx", "float[b, 64] x => float[b, 48] y", nodes, c=SMALL)
    model = onnx.load(src)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=model.graph.initializer.pop()))
    onnx.save(model, src)
    dst, report = sparse(src)
    assert [(layer.lowering, layer.block) for layer in report.layers] == [("blocks", (8, 8))]
    x = normal(3, 64)
    assert_same(answers(dst, x=x)[0], x.astype(float) @ SMALL.T, 1e-5)


@pytest.mark.parametrize("opset", [13, 17, 18, 21, 23])
def test_old_and_new_opsets(tmp_path: Path, opset: int) -> None:
    nodes = f"""
        h = MatMul(x, w)
        p, q = Split<axis = -1{", num_outputs = 2" if opset > 17 else ""}>(h)
    """
    signature = "float[b, 64] x => float[b, 24] p, float[b, 24] q"
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, opset=opset, w=SMALL.T)
    dst, _ = sparse(src, verify=True)
    x = normal(3, 64)
    assert_same(np.concatenate(answers(dst, x=x), 1), x.astype(float) @ SMALL.T, 1e-5)
    assert next(entry.version for entry in onnx.load(dst).opset_import if entry.domain == "") == opset


def test_several_inputs_of_several_kinds(tmp_path: Path) -> None:
    nodes = """
        e = Gather(table, ids)
        on = Cast<to = 1>(attention_mask)
        m = Unsqueeze(on, last)
        x = Mul(e, m)
        xe = Add(x, extra)
        h = MatMul(xe, w)
        y = Where(flag, h, zero)
    """
    signature = (
        "int64[b, s] ids, int32[b, s] attention_mask, float[b, s, 64] extra, bool[b, 1, 1] flag => float[b, s, 48] y"
    )
    table, last, zero = normal(2, 64), np.array([-1]), np.zeros((), "f")
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, w=SMALL.T, table=table, last=last, zero=zero)
    dst, report = sparse(src, verify=True)
    assert report.batch_sizes == (1, 7, 32)
    rng = np.random.default_rng(1)
    given = {
        "ids": rng.integers(0, 2, (3, 5)),
        "attention_mask": rng.integers(0, 2, (3, 5)).astype(np.int32),
        "extra": rng.standard_normal((3, 5, 64)).astype("f"),
        "flag": np.array([True, False, True])[:, None, None],
    }
    exact = (table[given["ids"]] * given["attention_mask"][..., None] + given["extra"]).astype(float) @ SMALL.T
    assert_same(answers(dst, **given)[0], exact * given["flag"], 1e-5)


def test_an_initializer_that_several_kinds_of_nodes_read(tmp_path: Path) -> None:
    """An embedding tied to the head, as Gather and as Gemm."""
    W = planted(64, 48, (8, 8), 0.6)
    nodes = """
        e = Gather(w, ids)
        h = Tanh(e)
        y = Gemm<transB = 1>(h, w)
    """
    src = onnx_file(tmp_path / "m.onnx", "int64[b] ids => float[b, 64] y", nodes, w=W)
    ids = np.array([0, 9, 63])
    for lowering in ("dense", "blocks"):
        dst, _ = sparse(src, lowering, verify=True)
        assert_same(answers(dst, ids=ids)[0], np.tanh(W[ids].astype(float)) @ W.T, 1e-5)
        if lowering == "dense":
            assert constants(dst) <= np.count_nonzero(W) + 64  # and one block of zeros


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_an_initializer_that_is_also_an_output(tmp_path: Path, lowering: str) -> None:
    signature = "float[b, 64] x => float[b, 48] y, float[64, 48] w"
    src = onnx_file(tmp_path / "m.onnx", signature, "y = MatMul(x, w)", w=SMALL.T)
    dst, _ = sparse(src, lowering, verify=True)
    x = normal(3, 64)
    y, w = answers(dst, x=x)
    assert_same(y, x.astype(float) @ SMALL.T, 1e-5)
    np.testing.assert_array_equal(w, SMALL.T)
    assert [value.name for value in onnx.load(dst).graph.output] == ["y", "w"]


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_an_initializer_that_is_also_an_input(tmp_path: Path, lowering: str) -> None:
    """The caller can replace it, so it stays; that of the same value beside it does not."""
    W = planted(64, 64)
    nodes = """
        h = MatMul(x, w)
        y = MatMul(h, v)
    """
    signature = "float[b, 64] x, float[64, 64] v => float[b, 64] y"
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, w=W.T, v=W.T)
    dst, report = sparse(src, lowering, verify=True)
    assert [(layer.site, layer.lowering) for layer in report.layers] == [("w", lowering)]
    x = normal(3, 64)
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T @ W.T, 1e-5)
    V = normal(64, 64, seed=1)
    assert_same(answers(dst, x=x, v=V)[0], x.astype(float) @ W.T @ V, 1e-5)


@pytest.mark.parametrize("name", ["w/0/blocks", "w/blocks", "w/gaps", "w/0/columns", "kronfx/8x8x-1", "kronfx/axis"])
@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_names_that_are_taken(tmp_path: Path, name: str, lowering: str) -> None:
    W, factor = planted(64, 64), np.arange(64, dtype="f")
    nodes = f"""
        h = MatMul(x, w)
        y = Mul(h, "{name}")
    """
    src = onnx_file(tmp_path / "m.onnx", "float[b, 64] x => float[b, 64] y", nodes, **{"w": W.T, name: factor})
    dst, _ = sparse(src, lowering)
    x = normal(3, 64)
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T * factor, 1e-5)


@pytest.mark.xfail(strict=True, reason="a Reshape with 0 and -1 cannot take a batch of no rows")
def test_an_empty_batch(tmp_path: Path) -> None:
    dst, _ = sparse(product(tmp_path / "m.onnx", leading="b, s"))
    for dims in ((0, 5), (2, 0), (0, 0)):
        assert answers(dst, x=np.zeros((*dims, 64), "f"))[0].shape == (*dims, 48)
