"""Functions that a model brings along: inlined, so that what they hold is a weight like any other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_files import answers, assert_same, evaluated, normal, ops, planted, sparse

from kronfx.errors import ExportError

W, V = planted(64, 64, (16, 16)), planted(64, 64, (16, 16), seed=1)
PRODUCT = helper.make_node("MatMul", ["x", "w"], ["y"])


def constant(name: str, array: np.ndarray) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array, order="C")))


def function(name: str, inputs: Sequence[str], *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_function("own", name, inputs, ["y"], nodes, opsets)


def call(name: str, *inputs: str, to: str = "y") -> onnx.NodeProto:
    return helper.make_node(name, inputs, [to], domain="own")


def file_of(
    path: Path, nodes: Sequence[onnx.NodeProto], functions: Sequence[onnx.FunctionProto], **constants: np.ndarray
) -> Path:
    """``y [b, 64]`` of ``x [b, 64]`` by calls of these functions."""
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 64]) for name in "xy"]
    held = [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


OWN = function("Own", ["x"], constant("w", W.T), PRODUCT)
GIVEN = function("Given", ["x", "w"], PRODUCT)
NESTED = function("Nested", ["x"], call("Own", "x", to="h"), helper.make_node("Relu", ["h"], ["y"]))


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_every_function_is_gone_and_every_weight_found(tmp_path: Path, lowering: str) -> None:
    """One of its own, one that is handed in, one of a function that another one calls, twice."""
    nodes = [call("Given", "x", "v", to="a"), call("Nested", "a", to="b"), call("Own", "b")]
    src = file_of(tmp_path / "m.onnx", nodes, [OWN, GIVEN, NESTED], v=V.T)
    dst, report = sparse(src, lowering)
    assert not onnx.load(dst).functions
    assert {"Own", "Given", "Nested"}.isdisjoint(ops(dst))
    assert [layer.lowering for layer in report.layers] == [lowering] * len(report.layers)
    assert len(report.layers) == 3
    x = normal(3, 64)
    exact = np.maximum(x.astype(float) @ V.T @ W.T, 0) @ W.T
    for y in (answers(dst, x=x)[0], evaluated(dst, x=x)[0], answers(src, x=x)[0]):
        assert_same(y, exact, 1e-5)


def broken() -> np.ndarray:
    array = W.T.copy()
    array[3, 5] = np.nan
    return array


@pytest.mark.parametrize("is_own", [False, True])
def test_a_function_may_not_hold_nan(tmp_path: Path, is_own: bool) -> None:
    inner = function("Inner", ["x"], constant("w", broken()), PRODUCT)
    outer = function("Outer", ["x"], call("Inner", "x"))
    given = [call("Given", "x", "v")], [GIVEN]
    src = file_of(tmp_path / "m.onnx", *([call("Outer", "x")], [inner, outer]) if is_own else given, v=broken())
    with pytest.raises(ExportError, match="NaN or infinite entries in a weight"):
        sparse(src)


def test_nan_that_nobody_computes_with_is_nobodys_business(tmp_path: Path) -> None:
    """In a function that is not called, in one whose answer is not used."""
    bad = function("Bad", ["x"], constant("w", broken()), PRODUCT)
    idle = function("Idle", ["x"], constant("w", broken()), PRODUCT)
    src = file_of(tmp_path / "m.onnx", [call("Own", "x"), call("Idle", "x", to="unused")], [OWN, bad, idle])
    dst, report = sparse(src)
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    x = normal(3, 64)
    assert_same(answers(dst, x=x)[0], x.astype(float) @ W.T, 1e-5)
