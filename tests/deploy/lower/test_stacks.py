"""Layers that read the same input are stacked into one product, whatever their sizes, biases and zero rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import FLOAT32, Node, answers, assert_same_file, onnx_file, ops, planted, sparse

N = 48


def three(zeros: tuple[float, ...], heights: tuple[int, ...], block: int = 8) -> dict[str, np.ndarray]:
    """``W^T [48, m]`` of several layers."""
    return {
        f"w{i}": planted(m, N, (block, 8), zero, i).T for i, (m, zero) in enumerate(zip(heights, zeros, strict=True))
    }


def products(path: Path) -> int:
    return sum(op in ("MatMul", "MatMulInteger") for op in ops(path))


def stacked(
    folder: Path, nodes: list[Node], constants: dict[str, np.ndarray], dims: tuple[Any, ...] = ("b", "s", N)
) -> Path:
    """The lowered file, once it has been found to compute in both runtimes what the source does."""
    made = {value for _, _, outputs, *_ in nodes for value in outputs.split()}
    read = {value for _, inputs, *_ in nodes for value in inputs.split()}
    outputs = {name: [*dims[:-1], None] for name in sorted(made - read)}
    src = onnx_file(folder / "m.onnx", nodes, {"x": dims}, outputs, constants, opset=20)
    dst, report = sparse(src)
    assert {layer.lowering for layer in report.layers} == {"blocks"}
    assert_same_file(src, dst, dims, (2, 3, 5), FLOAT32)
    return dst


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zeros=st.lists(st.sampled_from([0.3, 0.6, 0.9, 0.99, 1.0]), min_size=2, max_size=4),
    heights=st.lists(st.sampled_from([8, 24, 40, 104]), min_size=4, max_size=4),
    dims=st.sampled_from([("b", "s", N), ("b", N), (3, 40, N), ("b", 7, N), ("b", 2, "s", N)]),
    biased=st.integers(0, 15),
)
def test_any_layers_of_one_input(
    tmp_path: Path, zeros: list[float], heights: list[int], dims: tuple[Any, ...], biased: int
) -> None:
    constants = three(tuple(zeros), tuple(heights[: len(zeros)]))
    nodes: list[Node] = []
    for i in range(len(zeros)):
        nodes.append(("MatMul", f"x w{i}", f"y{i}"))
        if biased >> i & 1:
            constants[f"c{i}"] = np.linspace(-1, 1, heights[i], dtype=np.float32)
            nodes.append(("Add", f"y{i} c{i}", f"z{i}"))
    stacked(tmp_path, nodes, constants, dims)


def test_their_rows_share_the_buckets(tmp_path: Path) -> None:
    """With as many blocks in every row one product is left of three."""
    block = np.kron(np.eye(6), np.ones((8, 8))).astype(np.float32)
    nodes: list[Node] = [("MatMul", f"x w{i}", f"y{i}") for i in range(3)]
    constants = {f"w{i}": block * (i + 1) for i in range(3)}
    assert products(stacked(tmp_path, nodes, constants)) == 1


def test_blocks_of_two_sizes_are_stacked_apart(tmp_path: Path) -> None:
    block = np.kron(np.eye(6), np.ones((8, 8))).astype(np.float32)
    other = np.kron(np.eye(4), np.ones((12, 12))).astype(np.float32)
    nodes: list[Node] = [("MatMul", f"x w{i}", f"y{i}") for i in range(4)]
    constants = {"w0": block, "w1": other, "w2": 2 * block, "w3": 2 * other}
    assert products(stacked(tmp_path, nodes, constants)) == 2


def test_what_lies_between_them_may_read_the_first(tmp_path: Path) -> None:
    """The second layer's node comes after nodes that use the first one's result."""
    nodes: list[Node] = [
        ("MatMul", "x w0", "a"),
        ("Relu", "a", "r"),
        ("MatMul", "r w2", "b"),
        ("MatMul", "x w1", "g"),
        ("Mul", "b g", "y"),
    ]
    constants = {**three((0.6, 0.8), (96, N)), "w2": planted(N, 96, (8, 8), 0.6, 7).T}
    stacked(tmp_path, nodes, constants)


def test_a_weight_of_several_maps_is_stored_once(tmp_path: Path) -> None:
    """Its companions differ, so that no stack would hold it for all of them."""
    nodes: list[Node] = [
        ("MatMul", "x w0", "a"),
        ("MatMul", "x w1", "b"),
        ("Relu", "a", "r"),
        ("MatMul", "r w0", "c"),
        ("Add", "b c", "y"),
    ]
    dst = stacked(tmp_path, nodes, three((0.6, 0.6), (N, N)))
    assert stored_entries(dst) <= 1.25 * 2 * 0.4 * N * N  # surviving blocks of two weights, not of three


@pytest.mark.parametrize("repeats", [2, 3])
def test_layers_that_repeat_share_their_stack(tmp_path: Path, repeats: int) -> None:
    """As in models that use one block of weights again and again."""
    nodes: list[Node] = []
    for i, x in enumerate(["x", "h0", "h1"][:repeats]):
        nodes += [("MatMul", f"{x} w0", f"a{i}"), ("MatMul", f"{x} w1", f"b{i}"), ("Mul", f"a{i} b{i}", f"h{i}")]
    dst = stacked(tmp_path, nodes, three((0.6, 0.6), (N, N)))
    assert stored_entries(dst) <= 1.25 * 2 * 0.4 * N * N


def test_one_weight_twice_beside_itself(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", "x w0", "a"), ("MatMul", "x w0", "b"), ("Relu", "a", "r"), ("Mul", "b r", "y")]
    dst = stacked(tmp_path, nodes, three((0.6,), (N,)))
    assert stored_entries(dst) <= 1.25 * 0.4 * N * N


def test_a_map_that_nobody_reads_goes_away(tmp_path: Path) -> None:
    src = onnx_file(
        tmp_path / "m.onnx",
        [("MatMul", "x w0", "y"), ("MatMul", "x w1", "dead")],
        {"x": ["b", "s", N]},
        {"y": ["b", "s", 40]},
        three((0.6, 0.6), (40, 400)),
    )
    dst, _ = sparse(src)
    assert stored_entries(dst) <= 1.25 * 0.4 * 40 * N


def test_hundreds_of_layers_of_one_input(tmp_path: Path) -> None:
    """Whose names stay short."""
    count = 400
    nodes: list[Node] = [("MatMul", f"x w{i}", f"y{i}") for i in range(count)]
    constants = {f"w{i}": planted(16, 16, (8, 8), 0.5, i).T for i in range(count)}
    dst = stacked(tmp_path, nodes, constants, ("b", "s", 16))
    assert max(len(tensor.name) for tensor in onnx.load(dst).graph.initializer) < 20


@pytest.mark.parametrize("signed", [True, False])
def test_8_bit_products(tmp_path: Path, signed: bool) -> None:
    """Sums of integers are exact."""
    constants: dict[str, np.ndarray] = {}
    nodes: list[Node] = [("DynamicQuantizeLinear", "x", "q s z")]
    for i, m in enumerate((40, 96)):
        W = np.rint(127 * planted(m, N, (8, 8), 0.6, i).T).clip(-128, 127)
        constants[f"w{i}"] = (W + (0 if signed else 128)).clip(-128 if signed else 0, 127 if signed else 255)
        constants[f"w{i}"] = constants[f"w{i}"].astype(np.int8 if signed else np.uint8)
        constants[f"p{i}"] = np.array(0 if signed else 128, np.int8 if signed else np.uint8)
        nodes.append(("MatMulInteger", f"q w{i} z p{i}", f"y{i}"))
    types = dict.fromkeys(("y0", "y1"), TensorProto.INT32)
    outputs = {"y0": ["b", "s", 40], "y1": ["b", "s", 96]}
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", "s", N]}, outputs, constants, types, 20)
    dst, report = sparse(src, block=(8, 8))
    assert {layer.lowering for layer in report.layers} == {"blocks"}
    x = np.random.default_rng(0).standard_normal((2, 5, N)).astype(np.float32)
    for found, wanted in zip(answers(dst, x=x), answers(src, x=x), strict=True):
        np.testing.assert_array_equal(found, wanted)


def stored_entries(path: Path) -> int:
    """Entries of the floating constants."""
    return sum(
        int(np.prod(tensor.dims))
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    )
