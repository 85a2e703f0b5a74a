"""Models, ONNX files and figures that the tests of deployment share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from kronfx import deploy
from kronfx.layers import BlockSparseLinear, FoldedWeight, KroneckerLinear, folded_layers
from kronfx.records import Evaluation, KroneckerShape


def folded(m: int, n: int, block: tuple[int, int], zero: float = 0.9, seed: int = 0, bias: bool = True) -> nn.Linear:
    """A folded layer with the given share of its blocks exactly zero."""
    generator = torch.Generator().manual_seed(seed)
    shape = KroneckerShape(m // block[0], n // block[1], *block)
    keep = torch.zeros(shape.blocks)
    keep[torch.randperm(shape.blocks, generator=generator)[: round(shape.blocks * (1 - zero))]] = 1
    mask = torch.kron(keep.reshape(shape.m1, shape.n1), torch.ones(block))
    weight = torch.randn(m, n, generator=generator) / n**0.5 * mask
    return BlockSparseLinear(weight, torch.randn(m, generator=generator) if bias else None, shape)


def factored(shape: tuple[int, int, int, int], rank: int, evaluation: Evaluation, bias: bool = True) -> KroneckerLinear:
    """A factored layer of shape ``(m1, n1, m2, n2)`` with one zero row of blocks."""
    layer = KroneckerLinear(KroneckerShape(*shape), rank, evaluation, bias)
    with torch.no_grad():
        layer.S[0] = 0
    return layer


class LeNet(nn.Module):
    """LeNet-5 with its three linear layers folded to small blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.fc1 = folded(120, 400, (8, 16), seed=1)
        self.fc2 = folded(84, 120, (4, 8), seed=2)
        self.fc3 = folded(10, 84, (2, 4), seed=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(self.fc2(self.fc1(self.features(x)).relu()).relu())


def mlp() -> nn.Sequential:
    """512-1024-1024-10, the two large layers folded to 32x32 blocks."""
    first, second = folded(1024, 512, (32, 32), seed=1), folded(1024, 1024, (32, 32), seed=2)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(1024, 10))


def needed_bytes(model: nn.Module) -> int:
    """Entries that a file cannot do without: those of surviving blocks and of everything that is not folded."""
    sparse = folded_layers(model).values()
    starts = {layer.weight.data_ptr() for layer in sparse}
    rest = sum(p.nbytes for p in model.parameters() if p.data_ptr() not in starts)
    return rest + sum((layer.blocks - layer.zero_blocks()) * block_bytes(layer) for layer in sparse)


def block_bytes(layer: FoldedWeight) -> int:
    m2, n2 = layer.shape.block
    return m2 * n2 * layer.weight.element_size()


def run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    """Outputs of a file in stock onnxruntime, inputs by position."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))


FLOAT32 = 1e-4  # relative to max(1, max|y|), as the export promises
Node = tuple[str, str, str] | tuple[str, str, str, dict[str, Any]]


def assert_same(found: np.ndarray, wanted: Any, tolerance: float = FLOAT32) -> None:
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
    return dst, deploy.sparsify_onnx(src, dst, lowering=lowering, **{"tune": False, "verify": False, **options})


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
