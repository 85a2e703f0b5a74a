"""Every spelling of a linear map in ONNX, and files of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import answers, assert_same, evaluated, onnx_file

from kronfx.records import KroneckerShape

# Relative to max(1, max|y|): a few hundred products of numbers near 1, in the type itself.
TOLERANCES = {np.float32: 1e-5, np.float64: 1e-13, np.float16: 1e-2}


TYPES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.float16: TensorProto.FLOAT16}


many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # every example overwrites its files


@dataclass(frozen=True)
class Spelling:
    """Nodes that compute ``W x``; ``axes`` those of ``x``, ``n`` standing for the features."""

    nodes: tuple[Any, ...]
    axes: tuple[str, ...]
    stored: Any = np.transpose
    bias: bool = False

    def dims(self, features: int, sizes: dict[str, int] | None = None) -> list[Any]:
        known: dict[str, Any] = {"n": features, **(sizes or {})}
        return [known.get(axis, int(axis) if axis.isdigit() else axis) for axis in self.axes]

    def exact(self, W: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The product in float64, features first, and back."""
        axis = self.axes.index("n")
        rows = np.moveaxis(x.astype(float), axis, -1) @ W.astype(float).T + (bias.astype(float) if self.bias else 0)
        return np.moveaxis(rows, -1, axis)


def kernel(taps: int) -> Any:
    return lambda W: W.reshape(*W.shape, *[1] * taps)


product = (("MatMul", "x w", "y"),)


flattened = (
    ("Reshape", "x flat", "rows"),
    ("Gemm", "rows w c", "out", {"transB": 1}),
    ("Reshape", "out back", "y"),
)


SPELLINGS = {
    "MatMul": Spelling(product, ("b", "n")),
    "MatMul of sequences": Spelling(product, ("b", "s", "n")),
    "MatMul of short sequences": Spelling(product, ("b", "5", "n")),
    "MatMul of heads": Spelling(product, ("b", "h", "s", "n")),
    "MatMul and Add": Spelling((("MatMul", "x w", "h"), ("Add", "h c", "y")), ("b", "s", "n"), bias=True),
    "Add in front": Spelling((("MatMul", "x w", "h"), ("Add", "c h", "y")), ("b", "n"), bias=True),
    "from the left": Spelling((("MatMul", "w x", "y"),), ("n", "b"), lambda W: W),
    "from the left, batched": Spelling((("MatMul", "w x", "y"),), ("b", "n", "s"), lambda W: W),
    "Gemm": Spelling((("Gemm", "x w", "y"),), ("b", "n")),
    "Gemm with a bias": Spelling((("Gemm", "x w c", "y"),), ("b", "n"), bias=True),
    "Gemm, upright": Spelling((("Gemm", "x w c", "y", {"transB": 1}),), ("b", "n"), lambda W: W, bias=True),
    "Gemm of flattened sequences": Spelling(flattened, ("b", "s", "n"), lambda W: W, bias=True),
    "Conv1d": Spelling((("Conv", "x w c", "y"),), ("b", "n", "s"), kernel(1), bias=True),
    "Conv2d": Spelling((("Conv", "x w", "y"),), ("b", "n", "h", "s"), kernel(2)),
    "Conv2d with a bias": Spelling((("Conv", "x w c", "y"),), ("b", "n", "h", "s"), kernel(2), bias=True),
}  # fmt: skip


def written(folder: Path, spelling: Spelling, W: np.ndarray, bias: np.ndarray) -> Path:
    m, n = W.shape
    reshapes = {"flat": np.array([-1, n]), "back": np.array([0, -1, m])}
    used = {name for node in spelling.nodes for name in node[1].split()}
    weights = {"w": spelling.stored(W), "c": bias[:, None] if spelling.axes[0] == "n" else bias}
    given = {name: array for name, array in {**weights, **reshapes}.items() if name in used}
    kind = TYPES[W.dtype.type]
    src, inputs, outputs = folder / "dense.onnx", {"x": spelling.dims(n)}, {"y": spelling.dims(m)}
    if "back" in used:  # shape inference cannot tell that the second axis is the sequence again
        given["back"] = np.array([-1, 3, m])
        inputs, outputs = {"x": ["b", 3, n]}, {"y": ["b", 3, m]}
    return onnx_file(src, spelling.nodes, inputs, outputs, given, types={"x": kind, "y": kind})


def hold(src: Path, dst: Path, feeds: dict[str, np.ndarray], wanted: np.ndarray, tolerance: float) -> None:
    """Both runtimes answer what is wanted, in the type of the source."""
    onnx.checker.check_model(str(dst), full_check=True)
    for y in (answers(dst, **feeds)[0], evaluated(dst, **feeds)[0]):
        assert_same(y, wanted, tolerance)
        assert y.dtype == evaluated(src, **feeds)[0].dtype


sides = st.sampled_from([1, 2, 3, 5, 7, 8, 11])


grids = st.builds(KroneckerShape, st.integers(1, 6), st.integers(1, 6), sides, sides)


shares = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


def integer_file(folder: Path, W: np.ndarray, zero: np.ndarray, axes: list[Any]) -> Path:
    """What ``quantize_dynamic`` writes, made by hand: ``y = (x - x0) (W - zero)^T`` of a float ``x``."""
    nodes = [
        ("DynamicQuantizeLinear", "x", "q scale x0"),
        ("MatMulInteger", "q w x0 zero", "sum"),
        ("Cast", "sum", "f", {"to": TensorProto.FLOAT}),
        ("Mul", "f scale", "y"),
    ]
    m, n = W.shape
    src = folder / "integer.onnx"
    weights = {"w": W.T, "zero": zero}
    return onnx_file(src, nodes, {"x": [*axes, n]}, {"y": [*axes, m]}, weights, opset=20)
