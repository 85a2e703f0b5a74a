"""8-bit and bfloat16 products: the same to the bit, and of 8-bit operands still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import answers, assert_same, constants, evaluated, normal, planted, product, sparse
from onnx_spellings import grids, integer_file, many, shares

from kronfx.records import KroneckerShape


@many
@given(grids, shares, st.sampled_from(["int8", "uint8", "uint8 around 128", "int8 a column"]), st.booleans())
def test_8_bit_products_are_the_same_to_the_bit(
    tmp_path_factory: Any, grid: KroneckerShape, zero: float, kind: str, sequences: bool
) -> None:
    folder, rng = tmp_path_factory.mktemp("integer"), np.random.default_rng(0)
    mask = planted(grid.m, grid.n, grid.block, zero) != 0
    values = rng.integers(-127, 128, mask.shape) * mask
    point: Any = np.array(0, np.int8)
    W = values.astype(np.int8)
    if kind == "uint8":
        W, point = np.abs(values).astype(np.uint8), np.array(0, np.uint8)
    elif kind == "uint8 around 128":
        W, point = (values + 128).astype(np.uint8), np.array(128, np.uint8)
    elif kind == "int8 a column":
        point = np.zeros(grid.m, np.int8)
    src = integer_file(folder, W, point, "b, s" if sequences else "b")
    x = rng.standard_normal((2, 3, grid.n) if sequences else (3, grid.n)).astype(np.float32)
    for lowering in ("dense", "blocks"):
        dst, _ = sparse(src, lowering, block=grid.block)
        np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])
        np.testing.assert_array_equal(evaluated(dst, x=x)[0], evaluated(src, x=x)[0])


def test_8_bit_products_gather_8_bit_activations(tmp_path: Path) -> None:
    W = (127 * planted(64, 64, (8, 8), 0.5) / 3).astype(np.int8)
    dst, report = sparse(integer_file(tmp_path, W, np.array(0, np.int8)), block=(8, 8))
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    assert constants(dst) == 0
    assert constants(dst, "iu") < 64 * 64 * 0.6 + 200
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(onnx.load(dst)).graph.value_info
    }
    read = [types[node.input[1]] for node in onnx.load(dst).graph.node if node.op_type == "MatMulInteger"]
    assert read
    assert set(read) == {TensorProto.UINT8}


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_bfloat16_in_the_reference_evaluator(tmp_path: Path, lowering: str) -> None:
    """onnxruntime has no CPU kernels for it."""
    kind = ir.DataType.BFLOAT16.numpy()
    W = planted(48, 40, dtype=kind)
    src = product(tmp_path / "b.onnx", W)
    dst, report = sparse(src, lowering, verify=True)
    assert report.runtime == "ONNX's reference evaluator"
    assert report.layers[0].bytes < report.layers[0].dense_bytes / 2 == 48 * 40
    x = normal(3, 40, dtype=kind)
    exact = x.astype(float) @ W.astype(float).T
    assert_same(evaluated(dst, x=x)[0], exact, 2e-2)  # 8 bits of mantissa: 2^-8 a rounding, a few of them
