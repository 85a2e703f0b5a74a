"""Factors as they run: their evaluation on stored operands, against the dense product in both runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import normal, product
from onnx_spellings import SPELLINGS, TOLERANCES, hold, many, written
from oracles import dense, random_factors

from kronfx import deploy
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.pipeline import deploy as deploy_graph
from kronfx.deploy.source import Source, read_source
from kronfx.layers import Factors
from kronfx.records import Evaluation, KroneckerShape


@many
@given(
    st.sampled_from(["a_first", "b_first"]),
    st.builds(KroneckerShape, *[st.integers(1, 7)] * 4),
    st.integers(1, 3),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["MatMul", "MatMul of sequences", "MatMul of short sequences", "MatMul of heads", "Gemm, upright",
                     "from the left, batched", "Gemm of flattened sequences"]),
)  # fmt: skip
def test_factors_compute_the_dense_product(
    tmp_path_factory: Any, evaluation: Evaluation, shape: KroneckerShape, rank: int, dtype: Any, name: str
) -> None:
    folder, spelling = tmp_path_factory.mktemp("factors"), SPELLINGS[name]
    parts = random_factors((shape.m1, shape.n1, shape.m2, shape.n2), rank, torch.float64)
    W = (dense(parts.S, parts.A, parts.B).numpy() / shape.n**0.5).astype(dtype)
    factors = Factors(parts.S, parts.A / shape.n**0.5, parts.B)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(shape.m).astype(dtype)
    src = written(folder, spelling, W, bias)
    dst = src.with_name("factors.onnx")
    source = Source(read_source(src).model, (KnownWeight("fc", shape, W, factors, evaluation),))
    report = deploy_graph(source, dst, deploy.Options(lowering="factors", tune=False), None, lambda _: None)
    assert [(layer.site, layer.lowering) for layer in report.layers] == [("fc", "factors")]
    x = rng.standard_normal(spelling.dims(shape.n, b=2, h=3, s=4)).astype(dtype)
    # Three roundings of operands and intermediates whose terms can cancel: ten times what one product is held to.
    tolerance = TOLERANCES[np.float32]  # for float64 too, as long as the operands are rounded to float32 (see below)
    hold(src, dst, x, spelling.exact(W, bias, x), 10 * tolerance * rank)
    assert report.layers[0].bytes == W.itemsize * rank * (shape.m1 * shape.n1 + shape.m2 * shape.n2)


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
def test_factors_in_float64(tmp_path: Path, evaluation: Evaluation) -> None:
    shape, parts = KroneckerShape(3, 4, 5, 2), random_factors((3, 4, 5, 2), 2)
    W = dense(parts.S, parts.A, parts.B).numpy()
    src = product(tmp_path / "m.onnx", W)
    weight = KnownWeight("fc", shape, W, Factors(parts.S, parts.A, parts.B), evaluation)
    source = Source(read_source(src).model, (weight,))
    dst = tmp_path / "factors.onnx"
    deploy_graph(source, dst, deploy.Options(lowering="factors", tune=False), None, lambda _: None)
    x = normal(3, 8, dtype=np.float64)
    hold(src, dst, x, x @ W.T, 10 * TOLERANCES[np.float64])
