"""``Conv`` with kernels of one tap: strides and ``auto_pad``, which adds nothing to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_files import answers, axes, normal, onnx_file, planted, sparse
from onnx_spellings import TOLERANCES, hold, many

M, N = 48, 40
W = planted(M, N)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@settings(many, max_examples=25, deadline=None)
@given(
    auto_pad=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    steps=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    bias=st.booleans(),
    free=st.booleans(),
)
def test_one_tap(
    tmp_path: Path, lowering: str, auto_pad: str, sizes: list[int], steps: list[int], bias: bool, free: bool
) -> None:
    """Every so many positions, from the first one on, along one axis to three, of even sizes and odd ones."""
    strides, taps = steps[: len(sizes)], len(sizes)
    c = normal(M, seed=1)
    x = normal(2, N, *sizes)
    left = tuple(slice(None, None, step) for step in strides)
    read = x[(slice(None), slice(None), *left)].astype(float)
    wanted = np.moveaxis(np.tensordot(read, W.astype(float), (1, 1)), -1, 1)
    if bias:
        wanted = wanted + c.reshape(M, *(1,) * taps)
    ends = (x.shape, wanted.shape) if not free else ((None, N, *(None,) * taps), (None, M, *(None,) * taps))
    signature = "float[{}] x => float[{}] y".format(*(axes(*dims) for dims in ends))
    node = f'y = Conv<strides = {strides}, auto_pad = "{auto_pad}">(x, w{", c" if bias else ""})'
    src = onnx_file(tmp_path / "m.onnx", signature, node, w=W.reshape(M, N, *(1,) * taps), c=c)
    dst, report = sparse(src, lowering, block=(8, 8))
    assert [layer.lowering for layer in report.layers] == [lowering]
    hold(src, dst, x, wanted, TOLERANCES[np.float32])


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_more_taps_are_stored_and_run_as_they_did(tmp_path: Path, auto_pad: str) -> None:
    kernel = np.repeat(planted(128, 96, (16, 16), 0.85), 9, axis=1).reshape(128, 96, 3, 3)
    node = f'y = Conv<strides = [2, 1], auto_pad = "{auto_pad}">(x, w)'
    src = onnx_file(tmp_path / "m.onnx", "float[b, 96, h, s] x => float[b, 128, ?, ?] y", node, w=kernel)
    dst, report = sparse(src)
    (layer,) = report.layers
    assert (layer.lowering, layer.why) == ("dense", "only stored in blocks: Conv convolves with kernels of 3x3 taps")
    x = normal(2, 96, 7, 6)
    np.testing.assert_allclose(answers(dst, x=x)[0], answers(src, x=x)[0], rtol=1e-5, atol=1e-6)
