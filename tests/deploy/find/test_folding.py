"""Constant expressions: what shows a weight is folded, what a file keeps small on purpose stays small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx_files import answers, assert_same, normal, onnx_file, planted, sparse

RNG = np.random.default_rng(0)
SQUARE = "float[b, 256] x => float[b, 256] y"
FULL, PRUNED = normal(256, 256), planted(256, 256, (16, 16), 0.9).T
IDS = RNG.integers(0, 4, 256)
SMALL = "float[256, 256] x => float[256, 256] y"

# Nodes, and the constants that they spread: none of them holds a zero block.
DENSE: dict[str, tuple[str, str, dict[str, np.ndarray]]] = {
    "16 bits": (SQUARE, "c = Cast<to = 1>(w) y = MatMul(x, c)", {"w": FULL.astype(np.float16)}),
    "8 bits and a scale": (
        SQUARE,
        "c = Cast<to = 1>(w) v = Mul(c, s) y = MatMul(x, v)",
        {"w": RNG.integers(-127, 127, (256, 256)).astype(np.int8), "s": np.float32(0.01)},
    ),
    "one entry": (SMALL, "c = Expand(a, s) y = Add(x, c)", {"a": normal(1, 1), "s": np.array([256, 256])}),
    "a shape": (
        SMALL,
        "c = ConstantOfShape(s) d = Cast<to = 1>(c) y = Add(x, d)",
        {"s": np.array([256, 256])},
    ),
    "a tile": (SMALL, "c = Tile(a, s) y = Add(x, c)", {"a": normal(1, 16), "s": np.array([256, 16])}),
    "rows of a table": (SMALL, "c = Gather(a, k) y = Add(x, c)", {"a": normal(4, 256), "k": IDS}),
    "small indices": (
        SMALL,
        "i = Cast<to = 7>(k) c = Gather(a, i) d = Relu(c) y = Add(x, d)",
        {"a": normal(4, 256), "k": IDS.astype(np.uint8)},
    ),
    "a table and its transpose": (
        "float[b, 256] x => float[b, 256] y",
        "t = Transpose<perm = [1, 0]>(w) h = MatMul(x, w) r = Relu(h) y = MatMul(r, t)",
        {"w": FULL},
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_nothing_without_zero_blocks_grows(tmp_path: Path, name: str) -> None:
    signature, nodes, held = DENSE[name]
    src = onnx_file(tmp_path / "m.onnx", signature, nodes, opset=20, **held)
    for lowering in ("auto", "dense", "blocks"):
        dst, report = sparse(src, lowering)
        assert report.bytes == dst.stat().st_size <= src.stat().st_size
        x = normal(256, 256)
        assert_same(answers(dst, x=x)[0], answers(src, x=x)[0], 1e-5)


@pytest.mark.parametrize(
    ("nodes", "held"),
    [
        ("c = Cast<to = 1>(w) y = MatMul(x, c)", {"w": PRUNED.astype(np.float16)}),
        ("c = Identity(w) d = Identity(c) y = MatMul(x, d)", {"w": PRUNED}),
        ("c = Transpose<perm = [1, 0]>(w) y = MatMul(x, c)", {"w": PRUNED.T}),
        ("c = Reshape(w, s) y = MatMul(x, c)", {"w": PRUNED.reshape(16, 16, 256), "s": np.array([256, 256])}),
        ("c = Mul(w, s) y = MatMul(x, c)", {"w": PRUNED, "s": np.float32(0.5)}),
        ("c = Concat<axis = 0>(w, v) y = MatMul(x, c)", {"w": PRUNED[:128], "v": PRUNED[128:]}),
    ],
)
def test_a_pruned_weight_is_seen_through_what_makes_it(tmp_path: Path, nodes: str, held: dict[str, np.ndarray]) -> None:
    """And what is stored takes no more room than what survives of it."""
    src = onnx_file(tmp_path / "m.onnx", SQUARE, nodes, opset=20, **held)
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering)
        (layer,) = report.layers
        assert (layer.lowering, layer.block) == (lowering, (16, 16))
        assert layer.bytes <= 1.2 * 4 * np.count_nonzero(PRUNED)
        assert dst.stat().st_size <= 1.2 * 4 * np.count_nonzero(PRUNED) + 3000
        x = normal(5, 256)
        assert_same(answers(dst, x=x)[0], answers(src, x=x)[0], 1e-5)
