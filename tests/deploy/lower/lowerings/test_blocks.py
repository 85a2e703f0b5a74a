"""Every lowering of every spelling of a linear map, against the dense product in numpy: in onnxruntime and in ONNX's
reference evaluator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx_files import FLOAT32, answers, assert_same, constants, evaluated, normal, planted, product, sparse
from onnx_spellings import SPELLINGS, TOLERANCES, grids, hold, many, shares, written

from kronfx.records import KroneckerShape


@many
@given(
    st.sampled_from(sorted(SPELLINGS)),
    st.sampled_from(["dense", "blocks"]),
    grids,
    shares,
    st.sampled_from([np.float32, np.float64, np.float16]),
    st.fixed_dictionaries({"b": st.integers(1, 4), "h": st.integers(1, 4), "s": st.integers(1, 9)}),
)
def test_every_spelling_computes_the_dense_product(
    tmp_path_factory: Any, name: str, lowering: str, grid: KroneckerShape, zero: float, dtype: Any, sizes: Any
) -> None:
    folder, spelling = tmp_path_factory.mktemp("spelling"), SPELLINGS[name]
    assume(dtype is np.float32 or "Conv" not in spelling.nodes)  # onnxruntime has no other kernel for it
    W = planted(grid.m, grid.n, grid.block, zero, dtype=dtype)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(grid.m).astype(dtype)
    src = written(folder, spelling, W, bias)
    dst, report = sparse(src, lowering, block=grid.block)
    x = rng.standard_normal(spelling.dims(grid.n, **sizes)).astype(dtype)
    hold(src, dst, x, spelling.exact(W, bias, x), TOLERANCES[dtype])

    (layer,) = report.layers
    has_zeros = grid.blocks > 1 and bool(layer.zero_blocks)
    alive = (W.reshape(grid.m1, grid.m2, grid.n1, grid.n2) != 0).any(axis=(1, 3)).sum()
    assert layer.zero_blocks == (grid.blocks - alive if grid.blocks > 1 else 0)
    assert layer.lowering == ("blocks" if lowering == "blocks" and (has_zeros or zero == 1) else "dense")


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_every_spelling_is_lowered(tmp_path: Path, name: str) -> None:
    """So that the property above holds of the lowerings and not of layers left alone."""
    W = planted(48, 40)
    src = written(tmp_path, SPELLINGS[name], W, np.ones(48, np.float32))
    dst, report = sparse(src)
    assert [(layer.m, layer.n, layer.block, layer.lowering) for layer in report.layers] == [(48, 40, (8, 8), "blocks")]
    assert W.size not in [int(np.prod(tensor.dims)) for tensor in onnx.load(dst).graph.initializer]


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_inputs_and_outputs_keep_their_names(tmp_path: Path, name: str) -> None:
    src = written(tmp_path, SPELLINGS[name], planted(48, 40), np.ones(48, np.float32))
    graph = onnx.load(sparse(src)[0]).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [value.name for value in graph.output] == ["y"]


def rows_and_columns(kind: str) -> np.ndarray:
    """A mask ``[m1, n1]``."""
    mask = np.ones((8, 6))
    mask[1, 2] = 0
    if kind == "zero rows":
        mask[[0, 3, 4, 5]] = 0
    elif kind == "zero columns":
        mask[:, [0, 5]] = 0
    elif kind == "one block":
        mask[:] = 0
        mask[5, 3] = 1
    elif kind == "nothing":
        mask[:] = 0
    elif kind == "a triangle":
        mask = np.tri(8, 6)
    return mask


@pytest.mark.parametrize("kind", ["zero rows", "zero columns", "one block", "nothing", "a triangle"])
@pytest.mark.parametrize("name", ["MatMul of sequences", "Gemm with a bias", "Conv2d with a bias"])
def test_zero_rows_and_columns_are_removed_outright(tmp_path: Path, kind: str, name: str) -> None:
    mask, spelling = rows_and_columns(kind), SPELLINGS[name]
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((64, 48)) * np.kron(mask, np.ones((8, 8)))).astype(np.float32)
    bias = rng.standard_normal(64).astype(np.float32)
    src = written(tmp_path, spelling, W, bias)
    dst, report = sparse(src, block=(8, 8))
    x = rng.standard_normal(spelling.dims(48, b=2, s=5, h=3)).astype(np.float32)
    hold(src, dst, x, spelling.exact(W, bias, x))

    alive = int(mask.sum())
    assert report.layers[0].zero_blocks == 48 - alive
    padding, row_of_zeros = alive / 32, alive / 64  # stored only where it is that small; else nodes make it of one 0
    assert constants(dst) <= 64 * (alive + padding + row_of_zeros) + 1 + (64 if spelling.bias else 0)


def test_columns_that_no_row_reads_are_never_touched(tmp_path: Path) -> None:
    W = planted(32, 64, (8, 8), 0.5)
    W[:, 16:40] = 0
    dst, _ = sparse(product(tmp_path / "m.onnx", W), block=(8, 8))
    x = normal(3, 64)
    wanted = x.astype(float) @ W.T
    x[:, 16:40] = np.nan
    for y in (answers(dst, x=x)[0], evaluated(dst, x=x)[0]):
        assert_same(y, wanted, FLOAT32)
