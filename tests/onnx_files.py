"""ONNX files: made by hand, run, looked into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import kronfx as kx
from kronfx import deploy
from kronfx.deploy.records.timings import Timing


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """Outputs of a file in stock onnxruntime, inputs by position."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


# Relative to max(1, max|y|): what the export promises, and what products and chains of numbers near 1 are held to.
PROMISED = 1e-4
FLOAT32 = 1e-5


Node = tuple[str, str, str] | tuple[str, str, str, dict[str, Any]]


def assert_same(found: np.ndarray, wanted: Any, tolerance: float = PROMISED) -> None:
    """Equal shapes, and ``max|y - y_ref| <= tolerance max(1, max|y_ref|)``."""
    reference = (wanted.detach().double().numpy() if isinstance(wanted, Tensor) else np.asarray(wanted)).astype(float)
    assert found.shape == reference.shape
    error = np.abs(found.astype(float) - reference).max(initial=0)
    assert error <= tolerance * max(1, np.abs(reference).max(initial=0))


def assert_same_file(src: Path, dst: Path, dims: Sequence[Any], sizes: Sequence[int], tolerance: float) -> None:
    """For a random ``x``, its open ``dims`` of these ``sizes``, both runtimes compute by ``dst`` what ``src`` does."""
    onnx.checker.check_model(str(dst), full_check=True)
    free = iter(sizes)
    x = np.random.default_rng(0).standard_normal([d if isinstance(d, int) else next(free) for d in dims])
    feeds = {"x": x.astype(np.float32)}
    for wanted, *found in zip(evaluated(src, **feeds), evaluated(dst, **feeds), answers(dst, **feeds), strict=True):
        for y in found:
            assert_same(y, wanted, tolerance)


def planted(
    m: int, n: int, block: tuple[int, int], zero: float = 0.75, seed: int = 0, dtype: Any = np.float32
) -> np.ndarray:
    """``W [m, n]``, normal, a share ``zero`` of its blocks exactly zero."""
    rng, grid = np.random.default_rng(seed), (m // block[0], n // block[1])
    mask = np.ones(grid).ravel()
    mask[rng.permutation(mask.size)[: round(zero * mask.size)]] = 0
    return (rng.standard_normal((m, n)) / n**0.5 * np.kron(mask.reshape(grid), np.ones(block))).astype(dtype)


def onnx_file(
    path: Path,
    nodes: Sequence[Node],
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    constants: Mapping[str, np.ndarray],
    types: Mapping[str, int] | None = None,
    opset: int = 18,
) -> Path:
    """A file made by hand: ``(op, "inputs", "outputs", attributes)`` a node, ``types`` where a value is not float32."""
    made = [helper.make_node(op, x.split(), y.split(), **(more[0] if more else {})) for op, x, y, *more in nodes]
    kinds = {**dict.fromkeys((*inputs, *outputs), onnx.TensorProto.FLOAT), **(types or {})}

    def infos(values: Mapping[str, Sequence[Any]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kinds[name], list(dims)) for name, dims in values.items()]

    weights = [numpy_helper.from_array(np.asarray(array, order="C"), name) for name, array in constants.items()]
    graph = helper.make_graph(made, "g", infos(inputs), infos(outputs), weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def sparse(src: Path, lowering: str = "blocks", **options: Any) -> tuple[Path, deploy.ExportReport]:
    """The file written anew, nothing timed and nothing verified unless asked for: tests have oracles of their own."""
    dst = src.with_name("sparse.onnx")
    return dst, deploy.sparsify(src, dst, lowering=lowering, **{"tune": False, "verify": False, **options})


def answers(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    """Outputs of a file in stock onnxruntime, inputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def evaluated(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    """Outputs of a file in ONNX's own reference evaluator."""
    return ReferenceEvaluator(str(path)).run(None, feeds)


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


def simple(folder: Path, zero: float = 0.75, m: int = 48, n: int = 64, **types: int) -> Path:
    """``y = x W^T`` with 8x8 blocks."""
    W = planted(m, n, (8, 8), zero)
    return onnx_file(folder / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", n]}, {"y": ["b", m]}, {"w": W.T}, types)


N = 48


def weight(seed: int, m: int = N, n: int = N, zero: float = 0.6) -> np.ndarray:
    """``W^T [n, m]``, as MatMul reads it; every row of blocks has its own number of them, some have none."""
    return planted(m, n, (8, 8), zero, seed).T


def lowered(
    folder: Path,
    nodes: list[Node],
    outputs: dict[str, Any],
    constants: dict[str, np.ndarray],
    dims: tuple[Any, ...] = ("b", "s", N),
    sizes: tuple[int, ...] = (2, 5),
    opset: int = 20,
    **types: int,
) -> list[str]:
    """The operators of the lowered file, once it has been found to compute in both runtimes what the source does."""
    src = onnx_file(folder / "m.onnx", nodes, {"x": dims}, outputs, constants, types, opset)
    dst, report = sparse(src)
    assert "blocks" in {layer.lowering for layer in report.layers}
    assert_same_file(src, dst, dims, sizes, FLOAT32)
    return ops(dst)


def export(model: nn.Module, path: Path, example: Any, lowering: str = "dense", **options: Any) -> deploy.ExportReport:
    """The public verb, nothing timed."""
    return kx.export_onnx(model, path, example, lowering=lowering, tune=False, **options)


LABEL = "64x96 in 16x16, 75% zero, float32, MatMul, 2 axes"


ROWS = (1, 128)


def mlp(folder: Path, zero: float = 0.75) -> Path:
    W = planted(64, 96, (16, 16), zero)
    return onnx_file(folder / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", 96]}, {"y": ["b", 64]}, {"w": W.T})


def made_up(
    dense: tuple[float, ...], blocks: tuple[float, ...], rows: tuple[int, ...] = ROWS, label: str = LABEL
) -> Any:
    """Timings that no clock ever showed."""
    entries = [Timing(label, "dense", n, t) for n, t in zip(rows, dense, strict=True)]
    return kx.Timings(
        (*entries, *(Timing(label, "blocks", n, t) for n, t in zip(rows, blocks, strict=True))), "paper", 2
    )
