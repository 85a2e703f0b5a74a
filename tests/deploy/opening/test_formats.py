"""Files in words of their own: sparse weights, old versions, values that are no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import answers, assert_same
from strange_files import PRODUCT, W, X, info, refusal, saved, written


@pytest.mark.parametrize("coordinates", [False, True])
@pytest.mark.parametrize("is_constant", [False, True])
def test_a_sparse_weight(tmp_path: Path, coordinates: bool, is_constant: bool) -> None:
    """ONNX's own format for what was pruned: indices cost more than the entries."""
    dense = np.ascontiguousarray(W.T)
    at = np.flatnonzero(dense)
    indices = np.stack(np.unravel_index(at, dense.shape), 1) if coordinates else at
    values = numpy_helper.from_array(dense.ravel()[at], "" if is_constant else "w")
    sparse = onnx.SparseTensorProto(dims=dense.shape, values=values, indices=numpy_helper.from_array(indices))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    nodes = [helper.make_node("Constant", [], ["w"], sparse_value=sparse), product] if is_constant else [product]
    more = {} if is_constant else {"sparse_initializer": [sparse]}
    dst, report = written(saved(tmp_path / "m.onnx", nodes, weights=(), **more))
    assert [(layer.block, layer.zero_blocks / layer.blocks) for layer in report.layers] == [((16, 16), 51 / 64)]
    assert_same(answers(dst, x=X)[0], X.astype(float) @ W.T)


@pytest.mark.parametrize(
    ("dims", "indices", "found"),
    [
        ((4, 4), [1, 16], "outside its dims"),
        ((4, 4), [-1, 2], "outside its dims"),
        ((4, 4), [[0, 1], [4, 0]], "outside its dims"),
        ((4, 4), [1, 2, 3], "outside its dims"),
        ((2**40, 4), [1, 2], "over 2 GiB"),
        ((-4, 4), [1, 2], "not values and their indices"),
    ],
)
def test_a_sparse_weight_that_is_none(tmp_path: Path, dims: tuple[int, int], indices: Any, found: str) -> None:
    values = numpy_helper.from_array(np.ones(2, "f"), "w")
    sparse = onnx.SparseTensorProto(dims=dims, values=values, indices=numpy_helper.from_array(np.array(indices)))
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert found in refusal(saved(tmp_path / "m.onnx", [product], weights=(), sparse_initializer=[sparse]))


@pytest.mark.parametrize("opset", range(7, 13))
def test_old_versions_are_converted(tmp_path: Path, opset: int) -> None:
    """With operators whose form changed since: axes and bounds were attributes, Softmax was of a matrix."""
    clip = helper.make_node("Clip", ["t"], ["c"], min=-1.0, max=1.0)
    bounds = [W.T, np.float32(-1), np.float32(1)]
    clip = clip if opset < 11 else helper.make_node("Clip", ["t", "v", "u"], ["c"])
    nodes = [
        PRODUCT,
        clip,
        helper.make_node("Unsqueeze", ["c"], ["d"], axes=[1]),
        helper.make_node("Softmax", ["d"], ["s"], axis=2),
        helper.make_node("Squeeze", ["s"], ["y"], axes=[1]),
    ]
    src = saved(tmp_path / "m.onnx", nodes, weights=bounds[: 1 if opset < 11 else 3], opset=opset, ir_version=6)
    dst, report = written(src)
    assert len(report.layers) == 1
    assert f"opset {opset} was converted to 13, by ONNX's own version converter" in report.notes
    assert_same(answers(dst, x=X)[0], answers(src, x=X)[0])


def test_a_version_that_is_too_old(tmp_path: Path) -> None:
    assert "opset 6; needed opset 7 or later" in refusal(saved(tmp_path / "m.onnx", [PRODUCT], opset=6))


def test_initializers_that_are_inputs_as_well(tmp_path: Path) -> None:
    """As IR version 3 wants it; the caller gives x only."""
    src = saved(
        tmp_path / "m.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], (info("x"), info("w", (128, 128))),
        opset=8, ir_version=3,
    )  # fmt: skip
    dst, report = written(src)
    assert len(report.layers) == 1
    assert [value.name for value in onnx.load(dst).graph.input] == ["x"]
    assert_same(answers(dst, x=X)[0], X.astype(float) @ W.T)


def sequence_info(name: str, dims: Sequence[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, dims)


def zip_map(name: str) -> onnx.ValueInfoProto:
    inner = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, inner))
    return helper.make_value_info(name, kind)


LABELS = {"keys_int64s": range(128), "values_strings": [f"c{i}" for i in range(128)]}
OTHERS: dict[str, tuple[list[onnx.NodeProto], onnx.ValueInfoProto]] = {
    "strings": (
        [
            helper.make_node("ArgMax", ["t"], ["a"], axis=1, keepdims=0),
            helper.make_node("LabelEncoder", ["a"], ["y"], domain="ai.onnx.ml", **LABELS),
        ],
        info("y", ["b"], TensorProto.STRING),
    ),
    "maps": (
        [helper.make_node("ZipMap", ["t"], ["y"], domain="ai.onnx.ml", classlabels_int64s=range(128))],
        zip_map("y"),
    ),
    "maps of strings": (
        [helper.make_node("ZipMap", ["t"], ["y"], domain="ai.onnx.ml", classlabels_strings=LABELS["values_strings"])],
        helper.make_value_info(
            "y",
            helper.make_sequence_type_proto(
                helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
            ),
        ),
    ),
    "sequences": (
        [helper.make_node("Transpose", ["t"], ["u"]), helper.make_node("SequenceConstruct", ["t", "u"], ["y"])],
        sequence_info("y"),
    ),
    "optionals": (
        [helper.make_node("Optional", ["t"], ["y"])],
        helper.make_value_info("y", helper.make_optional_type_proto(helper.make_tensor_type_proto(1, ["b", 128]))),
    ),
}


@pytest.mark.parametrize("kind", list(OTHERS))
@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_outputs_that_are_no_numbers(tmp_path: Path, kind: str, lowering: str) -> None:
    nodes, output = OTHERS[kind]
    src = saved(tmp_path / "m.onnx", [PRODUCT, *nodes], outputs=[output])
    dst, report = written(src, lowering=lowering)
    assert len(report.layers) == 1
    assert onnx.load(dst).graph.output[0].type == onnx.load(src).graph.output[0].type
    (found,), (wanted,) = answers(dst, x=X), answers(src, x=X)
    assert repr(found)[:20] == repr(wanted)[:20]  # of one kind; the numbers differ in their last digits


@pytest.mark.parametrize("kind", list(OTHERS))
def test_outputs_that_differ_are_told_apart(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is not an ornament: a file with other weights is refused, whatever it answers with."""
    from kronfx.deploy import pipeline

    nodes, output = OTHERS[kind]
    other = saved(tmp_path / "other.onnx", [PRODUCT, *nodes], outputs=[output], weights=(-W.T,))
    src, loaded = saved(tmp_path / "m.onnx", [PRODUCT, *nodes], outputs=[output]), pipeline.timed_session
    monkeypatch.setattr(pipeline, "timed_session", lambda _: loaded(other))
    assert "a relative error of" in refusal(src)


def test_a_sequence_as_an_example(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConcatFromSequence", ["x"], ["c"], axis=0),
        helper.make_node("MatMul", ["c", "w"], ["y"]),
    ]
    src = saved(tmp_path / "m.onnx", nodes, [sequence_info("x", [None, 128])])
    dst, report = written(src)  # one is made up as well
    assert report.batch_sizes == (1, 7, 32)
    dst, _ = written(src, example_inputs={"x": [X, X[:1].tolist()]})
    assert_same(answers(dst, x=[X, X[:1]])[0], np.concatenate([X, X[:1]]).astype(float) @ W.T)


@pytest.mark.parametrize("dims", [(-1, 128), (None, 128), ("", 128)])
def test_free_axes_without_a_name(tmp_path: Path, dims: tuple[Any, int]) -> None:
    """Some exporters write -1."""
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    dst, report = written(saved(tmp_path / "m.onnx", [product], [info("x", dims)], [info("y", dims)]))
    assert report.batch_sizes == (1, 7, 32)
    assert_same(answers(dst, x=X)[0], X.astype(float) @ W.T)
