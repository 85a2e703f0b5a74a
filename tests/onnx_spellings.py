"""Every spelling of a linear map in ONNX, and files of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from onnx_files import FLOATS, answers, assert_same, axes, evaluated, onnx_file

from kronfx.records import KroneckerShape

# Relative to max(1, max|y|): a few hundred products of numbers near 1, in the type itself.
TOLERANCES = {np.float32: 1e-5, np.float64: 1e-13, np.float16: 1e-2}
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # every example overwrites its files

sides = st.sampled_from([1, 2, 3, 5, 7, 8, 11])
grids = st.builds(KroneckerShape, st.integers(1, 6), st.integers(1, 6), sides, sides)
shares = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


@dataclass(frozen=True)
class Spelling:
    """Nodes that compute ``W x``; ``axes`` those of ``x``, ``n`` standing for the features."""

    nodes: str
    axes: str
    stored: Any = np.transpose
    bias: bool = False

    def dims(self, features: int, **sizes: int) -> list[Any]:
        """Names of free axes, or their sizes where they are given."""
        known: dict[str, Any] = {"n": features, **sizes}
        return [known.get(axis, int(axis) if axis.isdigit() else axis) for axis in self.axes.split()]

    def exact(self, W: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The product in float64, features first, and back."""
        axis = self.axes.split().index("n")
        rows = np.moveaxis(x.astype(float), axis, -1) @ W.astype(float).T + (bias.astype(float) if self.bias else 0)
        return np.moveaxis(rows, -1, axis)


def upright(W: np.ndarray) -> np.ndarray:
    """``W`` as it is, where the product itself turns it."""
    return W


def kernel(taps: int) -> Any:
    return lambda W: W.reshape(*W.shape, *[1] * taps)


FLATTENED = """
    rows = Reshape(x, flat)
    out = Gemm<transB = 1>(rows, w, c)
    y = Reshape(out, back)
"""
SPELLINGS = {
    "MatMul": Spelling("y = MatMul(x, w)", "b n"),
    "MatMul of sequences": Spelling("y = MatMul(x, w)", "b s n"),
    "MatMul of short sequences": Spelling("y = MatMul(x, w)", "b 5 n"),
    "MatMul of heads": Spelling("y = MatMul(x, w)", "b h s n"),
    "MatMul and Add": Spelling("h = MatMul(x, w) y = Add(h, c)", "b s n", bias=True),
    "Add in front": Spelling("h = MatMul(x, w) y = Add(c, h)", "b n", bias=True),
    "from the left": Spelling("y = MatMul(w, x)", "n b", upright),
    "from the left, batched": Spelling("y = MatMul(w, x)", "b n s", upright),
    "Gemm": Spelling("y = Gemm(x, w)", "b n"),
    "Gemm with a bias": Spelling("y = Gemm(x, w, c)", "b n", bias=True),
    "Gemm, upright": Spelling("y = Gemm<transB = 1>(x, w, c)", "b n", upright, bias=True),
    "Gemm of flattened sequences": Spelling(FLATTENED, "b 3 n", upright, bias=True),  # free, its length would be lost
    "Conv1d": Spelling("y = Conv(x, w, c)", "b n s", kernel(1), bias=True),
    "Conv2d": Spelling("y = Conv(x, w)", "b n h s", kernel(2)),
    "Conv2d with a bias": Spelling("y = Conv(x, w, c)", "b n h s", kernel(2), bias=True),
}


def written(folder: Path, spelling: Spelling, W: np.ndarray, bias: np.ndarray) -> Path:
    """A file of one linear map, spelled so."""
    (m, n), kind = W.shape, FLOATS[W.dtype.name]
    signature = f"{kind}[{axes(*spelling.dims(n))}] x => {kind}[{axes(*spelling.dims(m))}] y"
    constants = {
        "w": spelling.stored(W),
        "c": bias[:, None] if spelling.axes.startswith("n") else bias,
        "flat": np.array([-1, n]),
        "back": np.array([-1, 3, m]),
    }
    return onnx_file(folder / "dense.onnx", signature, spelling.nodes, **constants)


def integer_file(folder: Path, W: np.ndarray, zero: np.ndarray, leading: str = "b") -> Path:
    """What ``quantize_dynamic`` writes, made by hand: ``y = (x - x0) (W - zero)^T`` of a float ``x``."""
    m, n = W.shape
    nodes = """
        q, scale, x0 = DynamicQuantizeLinear(x)
        sum = MatMulInteger(q, w, x0, zero)
        f = Cast<to = 1>(sum)
        y = Mul(f, scale)
    """
    signature = f"float[{leading}, {n}] x => float[{leading}, {m}] y"
    return onnx_file(folder / "integer.onnx", signature, nodes, opset=20, w=W.T, zero=zero)


def hold(src: Path, dst: Path, x: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCES[np.float32]) -> None:
    """Both runtimes answer what is wanted, in the type of the source."""
    onnx.checker.check_model(str(dst), full_check=True)
    for y in (answers(dst, x=x)[0], evaluated(dst, x=x)[0]):
        assert_same(y, wanted, tolerance)
        assert y.dtype == evaluated(src, x=x)[0].dtype
