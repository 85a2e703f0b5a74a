"""Bodies of If and Loop and functions of other domains read rows, however the graph around them is laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_files import FLOAT32, N, Node, answers, assert_same, evaluated, lowered, onnx_file, sparse, weight


def body(name: str, op: str, *values: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, list(values), [f"{name}_y"])], name, [], [out])


def test_bodies_of_if_read_what_was_turned(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("ReduceSum", "x", "sum", {"keepdims": 0}),
        ("Less", "zero sum", "positive"),
        ("If", "positive", "k", {"then_branch": body("t", "Sigmoid", "h"), "else_branch": body("e", "Neg", "h")}),
        ("Add", "k h", "p"),
        ("MatMul", "p w2", "y"),
    ]
    constants = {"w1": weight(1), "w2": weight(2), "zero": np.array(0, "f")}
    lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)
    constants["zero"] = np.array(1e9, "f")
    lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)


def test_bodies_of_loop_read_what_was_turned(tmp_path: Path) -> None:
    """``k`` three times ``h`` and a weight of the body's own, which stays as it is."""
    scalar = [helper.make_tensor_value_info(n, k, []) for n, k in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))]
    state, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("k_in", "k_out"))
    made = [
        helper.make_node("Add", ["k_in", "h"], ["sum"]),
        helper.make_node("MatMul", ["sum", "inner"], ["k_out"]),
        helper.make_node("Identity", ["go"], ["go_on"]),
    ]
    done = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    inner = onnx.numpy_helper.from_array(np.ascontiguousarray(weight(3)), "inner")
    loop = helper.make_graph(made, "loop", [*scalar, state], [done, out], [inner])
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("Loop", "times true h", "k", {"body": loop}),
        ("MatMul", "k w2", "y"),
    ]
    constants = {"w1": weight(1), "w2": weight(2), "times": np.array(3), "true": np.array(True)}
    assert "Loop" in lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)


def test_functions_of_other_domains_get_rows(tmp_path: Path) -> None:
    """An operator that only shares its name with one of the table's is not known to work element by element."""
    W, x = weight(1), np.random.default_rng(0).standard_normal((2, 5, N)).astype("f")
    src = onnx_file(
        tmp_path / "m.onnx",
        [("MatMul", "x w", "h"), ("Relu", "h", "y")],
        {"x": ["b", "s", N]},
        {"y": ["b", "s", N]},
        {"w": W},
    )
    model = onnx.load(src)
    inner = [helper.make_node("Softmax", ["a"], ["b"], axis=-1)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model.functions.append(helper.make_function("mine", "Relu", ["a"], ["b"], inner, opsets[:1]))
    model.graph.node[1].domain = "mine"
    model.opset_import.append(opsets[1])
    onnx.save(model, src)
    dst, report = sparse(src)
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    (wanted,) = evaluated(src, x=x)
    assert_same(answers(dst, x=x)[0], wanted, FLOAT32)
