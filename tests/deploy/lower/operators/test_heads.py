"""Axes that move between lowered products: transposes, splits, reshapes and the heads of attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_files import N, axes, lowered, weight


def test_one_value_turned_twice_is_two_outputs(tmp_path: Path) -> None:
    nodes = """
        h = MatMul(x, w)
        p = Transpose<perm = [0, 2, 1]>(h)
        q = Transpose<perm = [0, 2, 1]>(h)
    """
    dst, _ = lowered(tmp_path, "float[b, 48, s] p, float[b, 48, s] q", nodes, w=weight(1))
    assert [value.name for value in onnx.load(dst).graph.output] == ["p", "q"]


@pytest.mark.parametrize("perm", [[0, 2, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
def test_transposes(tmp_path: Path, perm: list[int]) -> None:
    out = f"float[{axes(*(['b', 's', N][i] for i in perm))}] y"
    _, found = lowered(tmp_path, out, "h = MatMul(x, w)", f"y = Transpose<perm = {perm}>(h)", w=weight(1))
    assert found.count("Transpose") <= (1 if perm == [0, 2, 1] else 3)


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (8, 24, 16), (5, 20, 23)])
def test_a_packed_projection_is_split(tmp_path: Path, sizes: tuple[int, int, int], axis: int) -> None:
    nodes = f"""
        h = MatMul(x, w)
        q, k, v = Split<axis = {axis}>(h, parts)
        a = Relu(q)
        b = Sigmoid(k)
    """
    out = ", ".join(f"float[b, s, {size}] {name}" for name, size in zip("abv", sizes, strict=True))
    _, found = lowered(tmp_path, out, nodes, w=weight(1), parts=np.array(sizes))
    assert found.count("Transpose") == 1 + 3


@pytest.mark.parametrize(("axis", "half"), [(0, "1, 4, 48"), (1, "2, 2, 48")])
def test_a_split_of_other_axes(tmp_path: Path, axis: int, half: str) -> None:
    nodes = f"""
        h = MatMul(x, w)
        p, q = Split<axis = {axis}, num_outputs = 2>(h)
    """
    lowered(tmp_path, f"float[{half}] p, float[{half}] q", nodes, dims="2, 4, 48", w=weight(1))


PROJECTED = """
    q = MatMul(x, w0)
    k = MatMul(x, w1)
    v = MatMul(x, w2)
    q4 = Reshape(q, cut)
    k4 = Reshape(k, cut)
    v4 = Reshape(v, cut)
    qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    vh = Transpose<perm = [0, 2, 1, 3]>(v4)
"""
KEYS = {
    "at once": "kt = Transpose<perm = [0, 2, 3, 1]>(k4)",
    "step by step": """
        kh = Transpose<perm = [0, 2, 1, 3]>(k4)
        k3 = Reshape(kh, flat)
        k3t = Transpose<perm = [0, 2, 1]>(k3)
        kt = Reshape(k3t, back)
    """,
}
ATTENDED = """
    scores = MatMul(qh, kt)
    scaled = Div(scores, root)
    p = Softmax<axis = -1>(scaled)
    o = MatMul(p, vh)
    ot = Transpose<perm = [0, 2, 1, 3]>(o)
    om = Reshape(ot, merge)
    y = MatMul(om, w3)
"""


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize(("dims", "length"), [("b, s, 48", 5), ("2, 5, 48", 5), ("2, 40, 48", 40)])
def test_heads_of_attention(tmp_path: Path, dims: str, length: int, keys: str) -> None:
    """Three heads of 16 over ``x [b, s, 48]``; the keys turned in one step, or the way exporters do it."""
    nodes = PROJECTED + KEYS[keys] + ATTENDED
    shapes = {"cut": [0, 0, 3, 16], "merge": [0, 0, N], "flat": [-1, length, 16], "back": [2, 3, 16, length]}
    constants = {name: np.array(shape) for name, shape in shapes.items()} | {f"w{i}": weight(i) for i in range(4)}
    out = f"float[{dims}] y"
    _, found = lowered(tmp_path, out, nodes, dims=dims, root=np.array(4, "f"), **constants)
    if dims != "2, 5, 48":  # all rows of short sequences of a fixed length go into one product
        assert found.count("Transpose") <= nodes.count("Transpose") + 2


def test_a_reshape_that_mixes_rows_is_not_taken_for_heads(tmp_path: Path) -> None:
    """``[b, s, 48] -> [s, b, 3, 16]``: the axes have the right lengths and the wrong meaning."""
    nodes = """
        h = MatMul(x, w)
        size = Shape(x)
        swapped = Gather(size, order)
        target = Concat<axis = 0>(swapped, heads)
        r = Reshape(h, target)
        y = Transpose<perm = [0, 2, 1, 3]>(r)
    """
    constants = {"w": weight(1), "order": np.array([1, 0]), "heads": np.array([3, 16])}
    for dims in ("b, s, 48", "?, ?, 48"):
        lowered(tmp_path, "float[?, 3, ?, 16] y", nodes, dims=dims, **constants)
