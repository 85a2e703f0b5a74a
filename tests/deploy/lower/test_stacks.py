"""Layers that read the same input are stacked into one product, whatever their sizes, biases and zero rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import N, answers, assert_same_file, normal, onnx_file, ops, planted, sparse


def layers(zeros: list[float], heights: list[int]) -> dict[str, np.ndarray]:
    """``W^T [48, m]`` of several layers."""
    return {f"w{i}": planted(m, N, (8, 8), zero, i).T for i, (m, zero) in enumerate(zip(heights, zeros))}


def products(path: Path) -> int:
    return sum(op in ("MatMul", "MatMulInteger") for op in ops(path))


def stacked(folder: Path, *nodes: str, dims: str = "b, s, 48", **constants: np.ndarray) -> Path:
    """The lowered file, once it has been found to compute in both runtimes what the source does."""
    graph = onnx.parser.parse_graph(f"g () => () {{ {' '.join(nodes)} }}")
    read = {name for node in graph.node for name in node.input}
    leading = dims.rpartition(",")[0]
    out = ", ".join(f"float[{leading}, ?] {y}" for node in graph.node for y in node.output if y not in read)
    src = onnx_file(folder / "m.onnx", f"float[{dims}] x => {out}", *nodes, opset=20, **constants)
    dst, report = sparse(src)
    assert {layer.lowering for layer in report.layers} == {"blocks"}
    assert_same_file(src, dst)
    return dst


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zeros=st.lists(st.sampled_from([0.3, 0.6, 0.9, 0.99, 1.0]), min_size=2, max_size=4),
    heights=st.lists(st.sampled_from([8, 24, 40, 104]), min_size=4, max_size=4),
    dims=st.sampled_from(["b, s, 48", "b, 48", "3, 40, 48", "b, 7, 48", "b, 2, s, 48"]),
    biased=st.integers(0, 15),
)
def test_any_layers_of_one_input(
    tmp_path: Path, zeros: list[float], heights: list[int], dims: str, biased: int
) -> None:
    with_bias = [i for i in range(len(zeros)) if biased >> i & 1]
    nodes = [f"y{i} = MatMul(x, w{i})" for i in range(len(zeros))] + [f"z{i} = Add(y{i}, c{i})" for i in with_bias]
    biases = {f"c{i}": np.linspace(-1, 1, heights[i], dtype=np.float32) for i in with_bias}
    stacked(tmp_path, *nodes, dims=dims, **layers(zeros, heights), **biases)


def diagonal(count: int, size: int) -> np.ndarray:
    """One block in every row of blocks."""
    return np.kron(np.eye(count), np.ones((size, size))).astype(np.float32)


def test_their_rows_share_the_buckets(tmp_path: Path) -> None:
    """With as many blocks in every row one product is left of three."""
    weights = {f"w{i}": diagonal(6, 8) * (i + 1) for i in range(3)}
    assert products(stacked(tmp_path, *(f"y{i} = MatMul(x, w{i})" for i in range(3)), **weights)) == 1


def test_blocks_of_two_sizes_are_stacked_apart(tmp_path: Path) -> None:
    weights = {"w0": diagonal(6, 8), "w1": diagonal(4, 12), "w2": 2 * diagonal(6, 8), "w3": 2 * diagonal(4, 12)}
    assert products(stacked(tmp_path, *(f"y{i} = MatMul(x, w{i})" for i in range(4)), **weights)) == 2


def test_what_lies_between_them_may_read_the_first(tmp_path: Path) -> None:
    """The second layer's node comes after nodes that use the first one's result."""
    nodes = """
        a = MatMul(x, w0)
        r = Relu(a)
        b = MatMul(r, w2)
        g = MatMul(x, w1)
        y = Mul(b, g)
    """
    stacked(tmp_path, nodes, **layers([0.6, 0.8], [96, N]), w2=planted(N, 96, (8, 8), 0.6, 7).T)


def test_a_weight_of_several_maps_is_stored_once(tmp_path: Path) -> None:
    """Its companions differ, so that no stack would hold it for all of them."""
    nodes = """
        a = MatMul(x, w0)
        b = MatMul(x, w1)
        r = Relu(a)
        c = MatMul(r, w0)
        y = Add(b, c)
    """
    dst = stacked(tmp_path, nodes, **layers([0.6, 0.6], [N, N]))
    assert stored_entries(dst) <= 1.25 * 2 * 0.4 * N * N  # surviving blocks of two weights, not of three


@pytest.mark.parametrize("repeats", [2, 3])
def test_layers_that_repeat_share_their_stack(tmp_path: Path, repeats: int) -> None:
    """As in models that use one block of weights again and again."""
    nodes = [
        f"""
        a{i} = MatMul({x}, w0)
        b{i} = MatMul({x}, w1)
        h{i} = Mul(a{i}, b{i})
        """
        for i, x in enumerate(["x", "h0", "h1"][:repeats])
    ]
    dst = stacked(tmp_path, *nodes, **layers([0.6, 0.6], [N, N]))
    assert stored_entries(dst) <= 1.25 * 2 * 0.4 * N * N


def test_one_weight_twice_beside_itself(tmp_path: Path) -> None:
    nodes = """
        a = MatMul(x, w0)
        b = MatMul(x, w0)
        r = Relu(a)
        y = Mul(b, r)
    """
    dst = stacked(tmp_path, nodes, **layers([0.6], [N]))
    assert stored_entries(dst) <= 1.25 * 0.4 * N * N


def test_a_map_that_nobody_reads_goes_away(tmp_path: Path) -> None:
    nodes = "y = MatMul(x, w0)", "dead = MatMul(x, w1)"
    signature = "float[b, s, 48] x => float[b, s, 40] y"
    dst, _ = sparse(onnx_file(tmp_path / "m.onnx", signature, *nodes, **layers([0.6, 0.6], [40, 400])))
    assert stored_entries(dst) <= 1.25 * 0.4 * 40 * N


def test_hundreds_of_layers_of_one_input(tmp_path: Path) -> None:
    """Whose names stay short."""
    weights = {f"w{i}": planted(16, 16, (8, 8), 0.5, i).T for i in range(400)}
    dst = stacked(tmp_path, *(f"y{i} = MatMul(x, w{i})" for i in range(400)), dims="b, s, 16", **weights)
    assert max(len(tensor.name) for tensor in onnx.load(dst).graph.initializer) < 20


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_8_bit_products(tmp_path: Path, dtype: type[np.integer]) -> None:
    """Sums of integers are exact."""
    nodes = """
        q, s, z = DynamicQuantizeLinear(x)
        y0 = MatMulInteger(q, w0, z, zero)
        y1 = MatMulInteger(q, w1, z, zero)
    """
    zero, limits = 0 if dtype is np.int8 else 128, np.iinfo(dtype)
    weights = {
        f"w{i}": (np.rint(127 * planted(m, N, (8, 8), 0.6, i).T) + zero).clip(limits.min, limits.max).astype(dtype)
        for i, m in enumerate((40, 96))
    }
    signature = "float[b, s, 48] x => int32[b, s, 40] y0, int32[b, s, 96] y1"
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, opset=20, zero=np.array(zero, dtype), **weights)
    dst, report = sparse(src, block=(8, 8))
    assert {layer.lowering for layer in report.layers} == {"blocks"}
    x = normal(2, 5, N)
    for found, wanted in zip(answers(dst, x=x), answers(src, x=x), strict=True):
        np.testing.assert_array_equal(found, wanted)


def stored_entries(path: Path) -> int:
    """Entries of the floating constants."""
    return sum(
        int(np.prod(tensor.dims))
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    )
