"""Files whose answers vary, that contradict themselves, or that hold what nobody reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import answers, assert_same, product
from strange_files import PRODUCT, QUICK, W, X, info, refusal, saved, written

import kronfx as kx

LOTS: dict[str, list[onnx.NodeProto]] = {
    "RandomNormalLike": [
        helper.make_node("RandomNormalLike", ["t"], ["n"]),
        helper.make_node("Add", ["t", "n"], ["y"]),
    ],
    "RandomUniform": [
        helper.make_node("RandomUniform", [], ["n"], shape=[1, 128]),
        helper.make_node("Mul", ["t", "n"], ["y"]),
    ],
    "Bernoulli": [helper.make_node("Sigmoid", ["t"], ["p"]), helper.make_node("Bernoulli", ["p"], ["y"])],
    "Multinomial": [
        helper.make_node("Multinomial", ["t"], ["i"], sample_size=128),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ],
    "Dropout": [helper.make_node("Dropout", ["t", "v", "u"], ["y"])],
}


@pytest.mark.parametrize("kind", list(LOTS))
def test_answers_that_vary(tmp_path: Path, kind: str) -> None:
    src = saved(tmp_path / "m.onnx", [PRODUCT, *LOTS[kind]], weights=(W.T, np.float32(0.5), np.array(True)))
    sentence = refusal(src)
    assert f"its answers vary, for {kind} in it" in sentence
    assert "verify=False" in sentence
    assert kx.sparsify_onnx(src, tmp_path / "out.onnx", verify=False, **QUICK).layers


def test_a_seed_and_a_dropout_that_is_off_do_not_vary(tmp_path: Path) -> None:
    noise = helper.make_node("RandomNormalLike", ["t"], ["n"], seed=1.0)
    nodes = [PRODUCT, noise, helper.make_node("Add", ["t", "n"], ["y"])]
    written(saved(tmp_path / "m.onnx", nodes), lowering="blocks")
    off = saved(tmp_path / "m.onnx", [PRODUCT, *LOTS["Dropout"]], weights=(W.T, np.float32(0.5), np.array(False)))
    written(off, lowering="blocks")


RELU = helper.make_node("Relu", ["t"], ["y"])


def test_types_that_contradict_the_nodes(tmp_path: Path) -> None:
    """Left behind by a tool that changed the nodes; onnxruntime warns and infers anew."""
    src = saved(tmp_path / "m.onnx", [PRODUCT, RELU], value_info=[info("t", ("b", 100))])
    _, report = written(src)
    assert any("contradicts itself" in note for note in report.notes)
    _, report = written(saved(tmp_path / "m.onnx", [PRODUCT, RELU], outputs=[info("y", ("b", 100))]))
    assert any("the shapes of its outputs" in note for note in report.notes)


def test_a_graph_without_a_name(tmp_path: Path) -> None:
    src = saved(tmp_path / "m.onnx", [PRODUCT, RELU])
    model = onnx.load(src)
    model.graph.name = ""
    src.write_bytes(model.SerializeToString())
    written(src)


def test_an_operator_of_another_version_is_the_sources_fault(tmp_path: Path) -> None:
    """onnxruntime knows LayerNormalization since opset 1, ONNX since 17: the file is none, and runs."""
    nodes = [PRODUCT, helper.make_node("LayerNormalization", ["t", "v"], ["y"], axis=-1)]
    src = saved(tmp_path / "m.onnx", nodes, weights=(W.T, np.ones(128, "f")), opset=13)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", **QUICK)
    assert any("the source is no valid ONNX" in note for note in report.notes)
    assert report.max_error is not None
    assert_same(answers(tmp_path / "out.onnx", x=X)[0], answers(src, x=X)[0])


def test_dead_weights_of_bodies_go(tmp_path: Path) -> None:
    dead = numpy_helper.from_array(np.random.default_rng(0).standard_normal((128, 128)).astype("f"), "dead")
    unread = [helper.make_node("Constant", [], ["c"], value=dead), helper.make_node("Add", ["c", "c"], ["d"])]
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    relu = helper.make_node("Relu", ["t"], ["z"])
    then = helper.make_graph([*unread, relu], "then", [], out)
    other = helper.make_graph([relu], "other", [], out, [dead])
    branch = helper.make_node("If", ["f"], ["y"], then_branch=then, else_branch=other)
    src = saved(tmp_path / "m.onnx", [PRODUCT, branch], [info("x"), info("f", [], TensorProto.BOOL)])
    dst, report = written(src)
    assert report.bytes < W.nbytes
    assert_same(answers(dst, x=X, f=np.array(True))[0], np.maximum(X.astype(float) @ W.T, 0))


def test_nothing_gained_is_the_source_itself(tmp_path: Path) -> None:
    full = np.random.default_rng(0).standard_normal((128, 128)).astype("f")
    src, dst = saved(tmp_path / "m.onnx", [PRODUCT, RELU], weights=(full,)), tmp_path / "out.onnx"
    for options in ({}, {"tune": True, "rows": 1}, {"verify": False}):
        report = kx.sparsify_onnx(src, dst, **{**QUICK, **options})
        assert dst.read_bytes() == src.read_bytes()
        assert report.bytes == report.dense_bytes == src.stat().st_size
        assert "nothing here makes it smaller or faster: the new file is the source's own bytes" in report.notes
        assert [layer.lowering for layer in report.layers] == ["dense"]


def test_nothing_gained_of_a_source_that_is_no_valid_onnx(tmp_path: Path) -> None:
    """The source's own bytes have the source's own flaw: an output of which no shape is told."""
    full = np.random.default_rng(0).standard_normal((128, 128)).astype("f")
    src, dst = saved(tmp_path / "m.onnx", [PRODUCT, RELU], outputs=[info("y", None)], weights=(full,)), tmp_path / "o"
    report = kx.sparsify_onnx(src, dst, **QUICK)
    assert dst.read_bytes() == src.read_bytes()
    assert any("the source is no valid ONNX" in note for note in report.notes)


def test_a_constant_too_large_to_be_meant(tmp_path: Path) -> None:
    """Sizes are but numbers in a file: 64 TiB here."""
    nodes = [helper.make_node("Expand", ["w", "v"], ["e"]), helper.make_node("Add", ["x", "e"], ["y"])]
    src = saved(tmp_path / "m.onnx", nodes, weights=(np.ones((1, 1), "f"), np.array([2**24, 2**20])))
    assert "(Expand) that makes" in refusal(src)


def test_a_model_made_by_hand_and_checked_still_opens(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx", W)
    dst, _ = written(src)
    assert_same(answers(dst, x=X)[0], X.astype(float) @ W.T)


def test_an_operator_that_the_folder_trips_over(tmp_path: Path) -> None:
    """SplitToSequence by lengths that are no constant: the rest of the file is opened all the same."""
    nodes = [PRODUCT, helper.make_node("SplitToSequence", ["t", "n"], ["y"], axis=1)]
    output = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    src = saved(tmp_path / "m.onnx", nodes, [info("x"), info("n", [2], TensorProto.INT64)], [output])
    dst, report = written(src, example_inputs={"x": X, "n": [28, 100]})
    assert len(report.layers) == 1
    found = answers(dst, x=X, n=np.array([28, 100]))[0]
    assert_same(np.concatenate(found, 1), X.astype(float) @ W.T)


def test_a_loop_that_does_not_end(tmp_path: Path) -> None:
    """A damaged count is any number: the case that kronfx made up is given up, with a sentence."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Relu", ["a"], ["b"])],
        "body",
        [info("i", [], TensorProto.INT64), info("on", [], TensorProto.BOOL), info("a")],
        [info("still", [], TensorProto.BOOL), info("b")],
    )
    nodes = [PRODUCT, helper.make_node("Loop", ["v", "u", "t"], ["y"], body=body)]
    for count in (3, 2**60):
        src = saved(tmp_path / "m.onnx", nodes, weights=(W.T, np.array(count), np.array(True)))
        if count == 3:
            written(src)
            (tmp_path / "out.onnx").unlink()
        else:
            sentence = refusal(src, batch_sizes=(1,))
            assert "takes over 2.5 s" in sentence
            assert "pass example_inputs" in sentence
