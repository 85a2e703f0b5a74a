"""``Einsum`` that is a product with a constant: lowered, whatever its letters and wherever its features lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_files import FLOAT32, answers, assert_same, axes, evaluated, normal, onnx_file, ops, planted, sparse
from onnx_spellings import many

SIZES = dict(zip("bstnmhdcefg", (2, 3, 2, 40, 48, 6, 8, 5, 8, 6, 8), strict=True))  # n = c e, m = h d = f g


def constant(labels: str, features: str) -> np.ndarray:
    """``W^T [n, m]`` with zero blocks of 8x8, its axes named and turned as the letters say."""
    inner = [label for label in labels if label in features]
    outer = [label for label in labels if label not in features]
    W = planted(48, 40).T.reshape([SIZES[label] for label in inner + outer])
    return W.transpose([(inner + outer).index(label) for label in labels])


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize(
    ("x", "w", "y"),
    [
        ("bsn", "nm", "bsm"),
        ("bsn", "mn", "bsm"),
        ("bns", "nm", "bms"),
        ("nbs", "mn", "bsm"),
        ("bsn", "nm", "mbs"),
        ("bsn", "nhd", "bshd"),
        ("bsn", "nhd", "bhsd"),
        ("bsce", "cem", "bsm"),
        ("bcse", "cem", "bsm"),
        ("bsce", "cefg", "bsfg"),
        ("bsce", "mce", "bsm"),
        ("bstn", "nm", "btsm"),
        ("n", "nm", "m"),
    ],
)
@pytest.mark.parametrize("is_first", [False, True])
def test_products(tmp_path: Path, lowering: str, x: str, w: str, y: str, is_first: bool) -> None:
    W = constant(w, x)
    given_x = normal(*(SIZES[label] for label in x))
    operands, equation = ("w, x", f"{w},{x}->{y}") if is_first else ("x, w", f"{x}, {w} -> {y}")
    dims = (axes(*(SIZES[label] if label in "nmhdcefg" else label for label in labels)) for labels in (x, y))
    signature = "float[{}] x => float[{}] y".format(*dims)
    node = f'y = Einsum<equation = "{equation}">({operands})'
    src = onnx_file(tmp_path / "m.onnx", signature, node, w=W)
    dst, report = sparse(src, lowering, block=(8, 8))
    (layer,) = report.layers
    assert layer.lowering == ("dense" if len(x) == 1 else lowering)
    assert "Einsum" not in ops(dst)
    wanted = np.einsum(f"{x},{w}->{y}", given_x.astype(float), W.astype(float))
    for found in (answers(dst, x=given_x)[0], evaluated(dst, x=given_x)[0]):
        assert_same(found, wanted, FLOAT32)


@settings(many, max_examples=30, deadline=None)
@given(
    dots=st.integers(0, 3),
    at=st.integers(0, 1),
    implicit=st.booleans(),
    turned=st.booleans(),
)
def test_axes_without_a_name(tmp_path: Path, dots: int, at: int, implicit: bool, turned: bool) -> None:
    """``...`` in front of the features or behind them, and an output that the equation does not spell."""
    W = planted(48, 40)
    leading = [2, 3, 2][:dots]
    x = normal(*leading, 40) if at == 0 else normal(40, *leading)
    labels, w = ("...a" if at == 0 else "a..."), "ba" if turned else "ab"
    out = "...b"
    equation = f"{labels},{w}" if implicit else f"{labels},{w}->{out}"
    wanted = np.einsum(equation, x.astype(float), (W if turned else W.T).astype(float))
    signature = f"float[{axes(*x.shape)}] x => float[{axes(*wanted.shape)}] y"
    node = f'y = Einsum<equation = "{equation}">(x, w)'
    src = onnx_file(tmp_path / "m.onnx", signature, node, w=W if turned else W.T)
    dst, report = sparse(src, block=(8, 8))
    assert [layer.lowering for layer in report.layers] == ["blocks" if dots else "dense"]
    for found in (answers(dst, x=x)[0], evaluated(dst, x=x)[0]):
        assert_same(found, wanted, FLOAT32)


SQUARE = planted(64, 64, (16, 16))


@pytest.mark.parametrize(
    ("equation", "why"),
    [
        ("ba,aa->ba", "takes a diagonal"),
        ("ba,ca->bac", "multiplies along an axis of its constant that it keeps"),
        ("ba,ac->b", "sums over an axis of one operand alone"),
        ("ba,dc->badc", "is no product of two matrices"),
        ("ba,...c->b...", "gives its constant axes that it does not name"),
    ],
)
def test_what_is_no_product_is_stored_with_its_reason(tmp_path: Path, equation: str, why: str) -> None:
    W, x = np.tile(SQUARE, (2, 2)), normal(3, 128)
    if "..." in equation:
        equation = "ba,...a->b..."
    wanted = np.einsum(equation, x.astype(float), W.astype(float))
    node = f'y = Einsum<equation = "{equation}">(x, w)'
    signature = f"float[3, 128] x => float[{axes(*wanted.shape)}] y"
    dst, report = sparse(onnx_file(tmp_path / "m.onnx", signature, node, w=W))
    (layer,) = report.layers
    assert layer.why == f"only stored in blocks: Einsum {why}"
    assert layer.bytes < 0.5 * layer.dense_bytes
    assert_same(answers(dst, x=x)[0], wanted, FLOAT32)


def test_a_constant_that_others_read_in_its_own_shape(tmp_path: Path) -> None:
    W, x = np.stack([SQUARE, SQUARE]), normal(3, 2, 64)
    nodes = 'y = Einsum<equation = "bca,cad->bd">(x, w) z = Gather(w, ids)'
    signature = "float[b, 2, 64] x, int64[k] ids => float[b, 64] y, float[k, 64, 64] z"
    dst, report = sparse(onnx_file(tmp_path / "m.onnx", signature, nodes, w=W))
    y, z = answers(dst, x=x, ids=np.array([1]))
    assert_same(y, np.einsum("bca,cad->bd", x.astype(float), W), FLOAT32)
    np.testing.assert_array_equal(z, W[1:])
    assert "Einsum multiplies by a constant that others read in its own shape" in str(report)
