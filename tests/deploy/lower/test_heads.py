"""Axes that move between lowered products: transposes, splits, reshapes and the heads of attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_files import N, Node, lowered, weight


def test_one_value_turned_twice_is_two_outputs(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h"), *(("Transpose", "h", t, {"perm": [0, 2, 1]}) for t in "pq")]
    lowered(tmp_path, nodes, {t: ["b", N, "s"] for t in "pq"}, {"w": weight(1)})
    assert [value.name for value in onnx.load(tmp_path / "sparse.onnx").graph.output] == ["p", "q"]


@pytest.mark.parametrize("perm", [[0, 2, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
def test_transposes(tmp_path: Path, perm: list[int]) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h"), ("Transpose", "h", "y", {"perm": perm})]
    dims = ["b", "s", N]
    found = lowered(tmp_path, nodes, {"y": [dims[i] for i in perm]}, {"w": weight(1)})
    assert found.count("Transpose") <= (1 if perm == [0, 2, 1] else 3)


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (8, 24, 16), (5, 20, 23)])
def test_a_packed_projection_is_split(tmp_path: Path, sizes: tuple[int, int, int], axis: int) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w", "h"),
        ("Split", "h parts", "q k v", {"axis": axis}),
        ("Relu", "q", "a"),
        ("Sigmoid", "k", "b"),
    ]
    out = {name: ["b", "s", size] for name, size in zip("abv", sizes, strict=True)}
    found = lowered(tmp_path, nodes, out, {"w": weight(1), "parts": np.array(sizes)})
    assert found.count("Transpose") == 1 + 3


@pytest.mark.parametrize("axis", [0, 1])
def test_a_split_of_other_axes(tmp_path: Path, axis: int) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h"), ("Split", "h", "p q", {"axis": axis, "num_outputs": 2})]
    out = {name: [2 if axis else 1, 5, N] for name in "pq"}
    out = {name: [2, 2, N] if axis else [1, 4, N] for name in "pq"}
    lowered(tmp_path, nodes, out, {"w": weight(1)}, (2, 4, N), ())


def attention(keys: str) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Three heads of 16 over ``x [b, s, 48]``; the keys turned in one step, or the way exporters do it."""
    constants = {f"w{i}": weight(i) for i in range(4)}
    constants |= {"cut": np.array([0, 0, 3, 16]), "merge": np.array([0, 0, N]), "root": np.array(4, "f")}
    constants |= {"flat": np.array([-1, 5, 16]), "back": np.array([2, 3, 16, 5])}
    nodes: list[Node] = [("MatMul", f"x w{i}", name) for i, name in enumerate("qkv")]
    nodes += [("Reshape", f"{name} cut", f"{name}4") for name in "qkv"]
    nodes += [("Transpose", f"{name}4", f"{name}h", {"perm": [0, 2, 1, 3]}) for name in "qv"]
    if keys == "at once":
        nodes += [("Transpose", "k4", "kt", {"perm": [0, 2, 3, 1]})]
    else:
        nodes += [
            ("Transpose", "k4", "kh", {"perm": [0, 2, 1, 3]}),
            ("Reshape", "kh flat", "k3"),
            ("Transpose", "k3", "k3t", {"perm": [0, 2, 1]}),
            ("Reshape", "k3t back", "kt"),
        ]
    nodes += [
        ("MatMul", "qh kt", "scores"),
        ("Div", "scores root", "scaled"),
        ("Softmax", "scaled", "p", {"axis": -1}),
        ("MatMul", "p vh", "o"),
        ("Transpose", "o", "ot", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "ot merge", "om"),
        ("MatMul", "om w3", "y"),
    ]
    return nodes, constants


@pytest.mark.parametrize("keys", ["at once", "step by step"])
@pytest.mark.parametrize("dims", [("b", "s", N), (2, 5, N), (2, 40, N)])
def test_heads_of_attention(tmp_path: Path, dims: tuple[Any, ...], keys: str) -> None:
    nodes, constants = attention(keys)
    length = 40 if dims[1] == 40 else 5
    constants |= {"flat": np.array([-1, length, 16]), "back": np.array([2, 3, 16, length])}
    used = {name for node in nodes for name in node[1].split()}
    found = lowered(tmp_path, nodes, {"y": dims}, {k: v for k, v in constants.items() if k in used}, dims)
    plain = sum(node[0] == "Transpose" for node in nodes)
    if dims[1] != 5:  # all rows of short sequences of a fixed length go into one product
        assert found.count("Transpose") <= plain + 2


def test_a_reshape_that_mixes_rows_is_not_taken_for_heads(tmp_path: Path) -> None:
    """``[b, s, 48] -> [s, b, 3, 16]``: the axes have the right lengths and the wrong meaning."""
    nodes: list[Node] = [
        ("MatMul", "x w", "h"),
        ("Shape", "x", "size"),
        ("Gather", "size order", "swapped"),
        ("Concat", "swapped heads", "target", {"axis": 0}),
        ("Reshape", "h target", "r"),
        ("Transpose", "r", "y", {"perm": [0, 2, 1, 3]}),
    ]
    constants = {"w": weight(1), "order": np.array([1, 0]), "heads": np.array([3, 16])}
    lowered(tmp_path, nodes, {"y": [None, 3, None, 16]}, constants)
    lowered(tmp_path, nodes, {"y": [None, 3, None, 16]}, constants, (None, None, N))
