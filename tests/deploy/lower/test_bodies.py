"""Bodies of If and Loop and functions of other domains read rows, however the graph around them is laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
from onnx_files import FLOAT32, answers, assert_same, evaluated, lowered, normal, onnx_file, sparse, weight


def test_bodies_of_if_read_what_was_turned(tmp_path: Path) -> None:
    nodes = """
        h = MatMul(x, w1)
        sum = ReduceSum<keepdims = 0>(x)
        positive = Less(bound, sum)
        k = If(positive)<
            then_branch = positive_case () => (float[b, s, 48] t) { t = Sigmoid(h) },
            else_branch = negative_case () => (float[b, s, 48] e) { e = Neg(h) }
        >
        p = Add(k, h)
        y = MatMul(p, w2)
    """
    for bound in (0, 1e9):
        lowered(tmp_path, "float[b, s, 48] y", nodes, w1=weight(1), w2=weight(2), bound=np.array(bound, "f"))


def test_bodies_of_loop_read_what_was_turned(tmp_path: Path) -> None:
    """``k`` three times ``h`` and a weight of the body's own, which stays as it is."""
    nodes = """
        h = MatMul(x, w1)
        k = Loop(times, go, h)<
            body = thrice (int64 i, bool go_in, float[b, s, 48] k_in) => (bool go_out, float[b, s, 48] k_out) {
                sum = Add(k_in, h)
                k_out = MatMul(sum, inner)
                go_out = Identity(go_in)
            }
        >
        y = MatMul(k, w2)
    """
    weights = {"w1": weight(1), "w2": weight(2), "inner": weight(3)}
    _, found = lowered(tmp_path, "float[b, s, 48] y", nodes, times=np.array(3), go=np.array(True), **weights)
    assert "Loop" in found


def test_functions_of_other_domains_get_rows(tmp_path: Path) -> None:
    """An operator that only shares its name with one of the table's is not known to work element by element."""
    signature = "float[b, s, 48] x => float[b, s, 48] y"
    src = onnx_file(tmp_path / "m.onnx", signature, "h = MatMul(x, w)", "y = Relu(h)", w=weight(1))
    model = onnx.load(src)
    function = '<domain: "mine", opset_import: ["": 18]> Relu (a) => (b) { b = Softmax<axis = -1>(a) }'
    model.functions.append(onnx.parser.parse_function(function))
    model.opset_import.add(domain="mine", version=1)
    model.graph.node[1].domain = "mine"
    onnx.save(model, src)
    dst, report = sparse(src)
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    x = normal(2, 5, 48)
    (wanted,) = evaluated(src, x=x)
    assert_same(answers(dst, x=x)[0], wanted, FLOAT32)
