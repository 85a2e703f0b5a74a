"""Constants with zero blocks that no linear map takes: stored in blocks, whatever reads them, and run as before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from microsoft import fused_file
from onnx_files import answers, normal, onnx_file, planted, sparse
from onnx_spellings import integer_file, many

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.storage import survivors
from kronfx.records import KroneckerShape

SMALL = np.clip(np.rint(planted(128, 96, (16, 16), 0.85) * 300), -100, 100).astype(np.int16)


@many
@given(
    shape=st.builds(KroneckerShape, *[st.integers(1, 4)] * 2, *[st.integers(1, 6)] * 2),
    one=st.sampled_from(["all", "row", "column"]),
    short=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    seed=st.integers(0, 99),
)
def test_any_ground_is_rebuilt(tmp_path: Path, shape: KroneckerShape, one: str, short: Any, seed: int) -> None:
    """And its transpose; where the grid reaches beyond the weight too."""
    m, n = (
        max(side - min(less, block - 1), 1)
        for side, less, block in zip((shape.m, shape.n), short, shape.block, strict=True)
    )
    rng = np.random.default_rng(seed)
    ground = rng.integers(1, 255, {"all": (1, 1), "row": (m, 1), "column": (1, n)}[one]).astype(np.uint8)
    alive = np.kron(rng.random((shape.m1, shape.n1)) < 0.4, np.ones(shape.block)).astype(bool)[:m, :n]
    W = np.where(alive, rng.integers(0, 255, (m, n)), ground).astype(np.uint8)
    for stored, wanted in ((survivors(W, shape, ground), W), (survivors(W, shape, ground).T, W.T)):
        graph = ir.Graph([], [], nodes=[], opset_imports={"": 20}, name="g")
        y = stored.rebuilt(Builder(graph), "w")
        y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.UINT8), ir.Shape(wanted.shape)
        graph.outputs.append(y)
        ir.save(ir.Model(graph, ir_version=10), tmp_path / "w.onnx")
        np.testing.assert_array_equal(answers(tmp_path / "w.onnx")[0], wanted)


def hold_stored(src: Path, why: str, share: float = 0.35, **feeds: np.ndarray) -> None:
    """One constant, most of it zero, is stored in few bytes, and every answer is the same."""
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering)
        (layer,) = report.layers
        assert layer.why == f"only stored in blocks: {why}"
        assert layer.bytes <= share * layer.dense_bytes
        assert dst.stat().st_size <= src.stat().st_size - (1 - share) * layer.dense_bytes + 3000
        for found, wanted in zip(answers(dst, **feeds), answers(src, **feeds), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


WIDE = planted(128, 96, (16, 16), 0.85)
KERNEL = np.repeat(WIDE, 9, axis=1).reshape(128, 96, 3, 3)
STACK = np.stack([planted(128, 96, (16, 16), 0.85, seed).T for seed in range(3)])


@pytest.mark.parametrize(
    ("x", "y", "node", "w", "why"),
    [
        ((2, 96, 6, 6), (2, 128, 4, 4), "Conv(x, w)", KERNEL, "Conv convolves with kernels of 3x3 taps"),
        ((3, 5, 96), (3, 5, 128), "MatMul(x, w)", STACK,
         "MatMul multiplies by a constant of 3 axes, which is no matrix"),
        ((96,), (1, 128), "MatMul(x, w)", WIDE.T[None],
         "MatMul multiplies what may have fewer axes by a constant of 3 axes"),
        ((2, 96, 6), (2, 128, 8), "Conv<pads=[1, 1]>(x, w)", WIDE[..., None], "Conv pads its input"),
    ],
)  # fmt: skip
def test_floating_ones(tmp_path: Path, x: Any, y: Any, node: str, w: np.ndarray, why: str) -> None:
    dims = (", ".join(map(str, axes)) for axes in (x, y))
    signature = "float[{}] x => float[{}] y".format(*dims)
    hold_stored(onnx_file(tmp_path / "m.onnx", signature, f"y = {node}", w=w), why, x=normal(*x))


def test_attention_of_onnxruntime(tmp_path: Path) -> None:
    W = np.concatenate([planted(64, 64, (16, 16), 0.85, seed) for seed in range(3)]).T
    constants = {"w": W, "c": normal(192)}
    src = fused_file(
        tmp_path / "m.onnx", "Attention", "xwc", ("b", "s", 64), ("b", "s", 64), {"num_heads": 4}, **constants
    )
    hold_stored(src, "Attention reads it, which is no product that kronfx takes", x=normal(2, 5, 64))


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@settings(many, max_examples=20)
@given(point=st.sampled_from([0, 60, 121, 128, 200]), each=st.booleans(), kind=st.sampled_from([np.int8, np.uint8]))
def test_asymmetric_integers(tmp_path: Path, lowering: str, point: int, each: bool, kind: type) -> None:
    """A zero block holds the zero point: lowered where 8 bits hold the difference, stored in blocks in any case."""
    small = np.iinfo(kind)
    points = (point + small.min + np.arange(128) * each).clip(small.min, small.max).astype(kind)
    zero = points if each else points[:1].reshape(())
    W = (SMALL + (points if each else points[:1])[:, None]).clip(small.min, small.max).astype(kind)
    src = integer_file(tmp_path, W, zero)
    dst, report = sparse(src, lowering)
    (layer,) = report.layers
    assert layer.lowering == lowering
    assert layer.bytes <= 0.5 * layer.dense_bytes
    x = normal(5, 96)
    np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])
