"""ONNX files: written as they read, run, looked into.

A graph is written in ONNX's own text form, its constants beside it by name::

    onnx_file(path, "float[b, 64] x => float[b, 48] y", "h = MatMul(x, w)", "y = Add(h, c)", w=W.T, c=bias)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import kronfx as kx
from kronfx import deploy
from kronfx.deploy.records.timings import Timing

# Relative to max(1, max|y|): what the export promises, and what products and chains of numbers near 1 are held to.
PROMISED = 1e-4
FLOAT32 = 1e-5
FLOATS = {"float32": "float", "float64": "double", "float16": "float16", "bfloat16": "bfloat16"}
N = 48


def planted(
    m: int, n: int, block: tuple[int, int] = (8, 8), zero: float = 0.75, seed: int = 0, dtype: Any = np.float32
) -> np.ndarray:
    """``W [m, n]``, normal, a share ``zero`` of its blocks exactly zero."""
    rng, grid = np.random.default_rng(seed), (m // block[0], n // block[1])
    mask = np.ones(grid).ravel()
    mask[rng.permutation(mask.size)[: round(zero * mask.size)]] = 0
    return (rng.standard_normal((m, n)) / n**0.5 * np.kron(mask.reshape(grid), np.ones(block))).astype(dtype)


def weight(seed: int, m: int = N, n: int = N, zero: float = 0.6) -> np.ndarray:
    """``W^T [n, m]``, as MatMul reads it; every row of blocks has its own number of them, some have none."""
    return planted(m, n, (8, 8), zero, seed).T


def normal(*dims: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Normal numbers."""
    return np.random.default_rng(seed).standard_normal(dims).astype(dtype)


def axes(*dims: Any) -> str:
    """The dimensions of a value as text, ``None`` where one is unknown."""
    return ", ".join("?" if dim is None else str(dim) for dim in dims)


def onnx_file(path: Path, signature: str, *nodes: str, opset: int = 18, **constants: np.ndarray) -> Path:
    """``signature`` is inputs ``=>`` outputs; a text of ``nodes`` may hold one or many."""
    inputs, outputs = signature.split("=>")
    graph = onnx.parser.parse_graph(f"g ({inputs}) => ({outputs}) {{ {' '.join(nodes)} }}")
    furnish(graph, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def furnish(graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> None:
    """Constants go where they are read: those that only a body reads are its own, those nobody reads stay out."""
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    ours = {name: np.asarray(array, order="C") for name, array in constants.items() if name in read}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in ours.items())
    for body in (attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")):
        furnish(body, {name: array for name, array in constants.items() if name not in read})


SMALL = planted(48, 64)


def product(path: Path, W: np.ndarray = SMALL, leading: str = "b", opset: int = 18) -> Path:
    """``y = x W^T`` of ``x [*leading, n]``."""
    (m, n), kind = W.shape, FLOATS[W.dtype.name]
    signature = f"{kind}[{leading}, {n}] x => {kind}[{leading}, {m}] y"
    return onnx_file(path, signature, "y = MatMul(x, w)", opset=opset, w=W.T)


def sparse(src: Path, lowering: str = "blocks", **options: Any) -> tuple[Path, deploy.ExportReport]:
    """The file written anew, nothing timed and nothing verified unless asked for: tests have oracles of their own."""
    dst = src.with_name("sparse.onnx")
    return dst, deploy.sparsify_onnx(src, dst, lowering=lowering, **{"tune": False, "verify": False, **options})


def export(model: nn.Module, path: Path, example: Any, lowering: str = "dense", **options: Any) -> deploy.ExportReport:
    """The public verb, nothing timed."""
    return kx.export_onnx(model, path, example, lowering=lowering, tune=False, **options)


def lowered(
    folder: Path, outputs: str, *nodes: str, dims: str = "b, s, 48", **constants: np.ndarray
) -> tuple[Path, list[str]]:
    """The lowered file of ``float[dims] x => outputs``, found to compute what the source does, and its operators."""
    src = onnx_file(folder / "m.onnx", f"float[{dims}] x => {outputs}", *nodes, opset=20, **constants)
    dst, report = sparse(src)
    assert "blocks" in {layer.lowering for layer in report.layers}
    assert_same_file(src, dst)
    return dst, ops(dst)


TIMED = planted(64, 96, (16, 16))
LABEL = "64x96 in 16x16, 75% zero, float32, MatMul, 2 axes"


def made_up(
    dense: tuple[float, ...], blocks: tuple[float, ...], rows: tuple[int, ...] = (1, 128), label: str = LABEL
) -> kx.Timings:
    """Timings that no clock ever showed, by default of the product with ``TIMED``."""
    pairs = [("dense", dense), ("blocks", blocks)]
    entries = [Timing(label, name, n, t) for name, seconds in pairs for n, t in zip(rows, seconds, strict=True)]
    return kx.Timings(tuple(entries), "paper", 2)


# Running them and looking into them.


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """Outputs of a file in stock onnxruntime, inputs by position."""
    names = [value.name for value in onnx.load(path, load_external_data=False).graph.input]
    return answers(path, **dict(zip(names, (x.numpy() for x in inputs), strict=True)))


def answers(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    """Outputs of a file in stock onnxruntime, inputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def evaluated(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    """Outputs of a file in ONNX's own reference evaluator."""
    return ReferenceEvaluator(str(path)).run(None, feeds)


def assert_same(found: np.ndarray, wanted: Any, tolerance: float = PROMISED) -> None:
    """Equal shapes, and ``max|y - y_ref| <= tolerance max(1, max|y_ref|)``."""
    reference = (wanted.detach().double().numpy() if isinstance(wanted, Tensor) else np.asarray(wanted)).astype(float)
    assert found.shape == reference.shape
    error = np.abs(found.astype(float) - reference).max(initial=0)
    assert error <= tolerance * max(1, np.abs(reference).max(initial=0))


def assert_same_file(src: Path, dst: Path, tolerance: float = FLOAT32) -> None:
    """For a random ``x``, its open axes 2 and 5 long, both runtimes compute by ``dst`` what ``src`` does."""
    onnx.checker.check_model(str(dst), full_check=True)
    free = iter((2, 5))
    dims = onnx.load(src).graph.input[0].type.tensor_type.shape.dim
    x = normal(*(dim.dim_value or next(free) for dim in dims))
    for wanted, *found in zip(evaluated(src, x=x), evaluated(dst, x=x), answers(dst, x=x), strict=True):
        for y in found:
            assert_same(y, wanted, tolerance)


def ops(path: Path) -> list[str]:
    """The operators of a file, as written."""
    return [node.op_type for node in onnx.load(path).graph.node]


def constants(path: Path, kinds: str = "f") -> int:
    """Entries of all constants of a file of these numpy kinds."""
    graph = onnx.load(path).graph
    nodes = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    tensors = [numpy_helper.to_array(tensor) for tensor in (*graph.initializer, *nodes)]
    return sum(tensor.size for tensor in tensors if tensor.dtype.kind in kinds)


def runtime_ops(path: Path, folder: Path) -> list[str]:
    """The operators left to run once onnxruntime has loaded the file at its default level, shape-only ones included."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
