"""Strangers' files with 85% of the blocks of their matrices zero, by plain onnx and numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

ZERO, LEAST = 0.85, 64  # share of blocks; entries a side, below which a matrix stays as it is
SIDES = (32, 16, 8, 4, 2)
_PRODUCTS = ("MatMul", "Gemm", "Conv", "MatMulInteger")
_CARRIERS = ("Cast", "DequantizeLinear", "Identity", "Transpose")


def prune(source: Path, path: Path) -> int:
    """Write the file with zero blocks; returns the bytes that they take."""
    model = onnx.load(source)
    rng = np.random.default_rng(0)
    removed = 0
    for graph in _graphs(model.graph):
        zero_points = {node.input[1]: node.input[3] for node in graph.node if _has_zero_point(node)}
        arrays = {tensor.name: tensor for tensor in _tensors(graph)}
        for name in _weights(graph):
            if name in arrays:
                zero = zero_points.get(name)
                middle = numpy_helper.to_array(arrays[zero]) if zero in arrays else np.zeros(())
                removed += _prune(arrays[name], middle, rng)
    onnx.save(model, path)
    return removed


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _has_zero_point(node: onnx.NodeProto) -> bool:
    return node.op_type == "MatMulInteger" and len(node.input) > 3


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].type == onnx.AttributeProto.TENSOR:
            node.attribute[0].t.name = node.output[0]
            yield node.attribute[0].t


def _weights(graph: onnx.GraphProto) -> set[str]:
    """The values that products read, and what these are made of."""
    made = {output: node for node in graph.node for output in node.output}
    names = {name for node in graph.node if node.op_type in _PRODUCTS for name in node.input[:2]}
    while True:
        sources = {made[name].input[0] for name in names if name in made and made[name].op_type in _CARRIERS}
        if sources <= names:
            return names
        names |= sources


def _prune(tensor: onnx.TensorProto, zero: np.ndarray, rng: np.random.Generator) -> int:
    """Set blocks of a matrix, of a stack of one or of a 1x1 convolution to zero, or leave it as it is."""
    dims = list(tensor.dims)
    while 1 in dims[:1] + dims[-1:]:
        dims.pop(0 if dims[0] == 1 else -1)
    if len(dims) != 2 or min(dims) < LEAST or zero.size != 1:
        return 0
    block = [next((side for side in SIDES if dim % side == 0), 0) for dim in dims]
    if not all(block):
        return 0
    array = numpy_helper.to_array(tensor)
    grid = [dim // side for dim, side in zip(dims, block)]
    mask = rng.permutation(grid[0] * grid[1]).reshape(grid) < round(ZERO * grid[0] * grid[1])
    spread = np.kron(mask, np.ones(block, bool)).reshape(array.shape)
    tensor.CopyFrom(numpy_helper.from_array(np.where(spread, zero.astype(array.dtype), array), tensor.name))
    return int(mask.sum()) * block[0] * block[1] * array.itemsize
