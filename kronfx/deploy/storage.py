"""Storage: a block-sparse constant is kept as its surviving blocks, and constant nodes rebuild it.

``W [m, n]`` on a grid of ``m1 x n1`` blocks becomes ``blocks [nnz, m2, n2]`` and ``gaps [nnz, 1]``: the
distances between consecutive positions ``p n1 + j`` of the survivors, the first one from 0, in the smallest
integer type that holds them.

    position = CumSum(Cast(gaps));  W = Reshape(Transpose(Reshape(ScatterND(zeros, position, blocks))))

All inputs are constants, so a runtime folds the nodes when it loads the file and runs the dense product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from kronfx.records import KroneckerShape

# What nodes and their names cost in the file, at most; a weight that would not win this much stays dense.
_NODE_BYTES = 700


@dataclass(frozen=True, slots=True)
class Survivors:
    """``blocks [nnz, m2, n2]`` and ``gaps [nnz, 1]`` of one weight ``W [m, n]``; ``mask [m1, n1]`` says which
    they are."""

    shape: KroneckerShape
    mask: np.ndarray[Any, Any]
    blocks: np.ndarray[Any, Any]
    gaps: np.ndarray[Any, Any]
    dims: tuple[int, int]  # (m, n), less than one block short of the grid where it is padded

    @property
    def zero_blocks(self) -> int:
        """Blocks that are not stored."""
        return self.shape.blocks - len(self.blocks)

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        return int(self.blocks.nbytes + self.gaps.nbytes)

    @property
    def pays(self) -> bool:
        """True where storing the survivors makes a smaller file than storing ``W``."""
        dense = self.dims[0] * self.dims[1] * self.blocks.itemsize
        return self.bytes + _NODE_BYTES < dense


def survivors(W: np.ndarray[Any, Any], shape: KroneckerShape) -> Survivors:
    """The blocks of ``W [m, n]`` with a non-zero entry, in row-major order of the grid."""
    dims = W.shape[0], W.shape[1]
    W = np.pad(W, ((0, shape.m - dims[0]), (0, shape.n - dims[1])))
    grid = W.reshape(shape.m1, shape.m2, shape.n1, shape.n2).transpose(0, 2, 1, 3)
    mask = (grid != 0).any(axis=(2, 3))
    positions = np.flatnonzero(mask)
    gaps = np.diff(positions, prepend=0)
    largest = int(gaps.max(initial=0))
    return Survivors(shape, mask, np.ascontiguousarray(grid[mask]), gaps.astype(_smallest(largest))[:, None], dims)


def _smallest(largest: int) -> type[np.integer[Any]]:
    return np.uint8 if largest < 2**8 else np.uint16 if largest < 2**16 else np.int32


def store(graph: ir.Graph, site: str, kept: Survivors, upright: Sequence[ir.Value], turned: Sequence[ir.Value]) -> None:
    """Replace initializers by nodes that rebuild them: ``upright`` ones are ``W [m, n]``, ``turned`` ones ``[n, m]``.

    However many there are, the survivors are stored once.
    """
    shape = kept.shape
    blocks = _constant(graph, f"{site}/blocks", kept.blocks)
    gaps = _constant(graph, f"{site}/gaps", kept.gaps)
    zero = ir.tensor(np.zeros(1, kept.blocks.dtype))

    cast = _node("Cast", gaps, to=ir.DataType.INT64)
    position = _node("CumSum", cast.outputs[0], _integers(graph))
    zeros = _node("ConstantOfShape", _integers(graph, shape.blocks, *shape.block), value=zero)
    scatter = _node("ScatterND", zeros.outputs[0], position.outputs[0], blocks)
    grid = _node("Reshape", scatter.outputs[0], _integers(graph, shape.m1, shape.n1, *shape.block))

    nodes = [cast, position, zeros, scatter, grid]
    for weights, perm, dims, ends in (
        (upright, (0, 2, 1, 3), (shape.m, shape.n), kept.dims),
        (turned, (1, 3, 0, 2), (shape.n, shape.m), kept.dims[::-1]),
    ):
        if weights:
            order = _node("Transpose", grid.outputs[0], perm=perm)
            nodes += [order, _node("Reshape", order.outputs[0], _integers(graph, *dims))]
            if dims != ends:  # the surplus of a padded grid
                nodes.append(_node("Slice", nodes[-1].outputs[0], _integers(graph, 0, 0), _integers(graph, *ends)))
            _replace(graph, weights, nodes[-1].outputs[0])
    graph.insert_before(graph[0], nodes)
    for node in nodes:
        node.name = ""  # nothing will ever time or debug them: they are gone once the file is loaded


def _replace(graph: ir.Graph, weights: Sequence[ir.Value], dense: ir.Value) -> None:
    names = [weight.name for weight in weights if weight.name]
    for weight in weights:
        ir.convenience.replace_all_uses_with(weight, dense)
    for name in names:
        del graph.initializers[name]
    dense.name = names[0]


def _node(op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Node:
    return ir.node(op_type, inputs, attributes)


def _constant(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array))
    graph.register_initializer(value)
    return value


def _integers(graph: ir.Graph, *values: int) -> ir.Value:
    """An int64 vector shared by all layers that need it; without values, the scalar 0."""
    name = f"kronfx/{'x'.join(map(str, values)) or 'axis'}"
    if name in graph.initializers:
        return graph.initializers[name]
    return _constant(graph, name, np.array(values or 0, dtype=np.int64))
