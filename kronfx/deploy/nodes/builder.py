"""Adding nodes and constants to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, smallest
from kronfx.records import KroneckerShape


class Builder:
    """Puts nodes in front of an ``anchor`` (at the end without one); constants of one name exist once.

    ``made`` are the nodes so far.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.anchor: ir.Node | None = None
        self.made: list[ir.Node] = []

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        return self.node(ir.node(op_type, inputs, attributes)).outputs[0]

    def node(self, node: ir.Node) -> ir.Node:
        """The node itself, put in place."""
        self.made.append(node)
        if self.anchor is None:
            self.graph.append(node)
        else:
            self.graph.insert_before(self.anchor, node)
        return node

    def constant(self, name: str, array: Array) -> ir.Value:
        """An initializer; the one of that name, if there is one that holds the same."""
        taken = self.graph.initializers.get(name)
        if taken is not None and _holds(taken, array):
            return taken
        if taken is not None or any(value.name == name for value in self.graph.inputs):
            return self.constant(f"{name}/", array)
        value = ir.Value(name=name, const_value=ir.Tensor(np.asarray(array, order="C")))
        self.graph.register_initializer(value)
        return value

    def integers(self, *values: int) -> ir.Value:
        """An int64 vector that all nodes share; without values, the scalar 0."""
        return self.constant(f"k/{'x'.join(map(str, values)) or 'axis'}", np.array(values or 0, dtype=np.int64))

    def matrix(self, grid: ir.Value, shape: KroneckerShape, dims: tuple[int, int]) -> ir.Value:
        """A grid ``[m1, m2, n1, n2]`` as ``W [m, n]``, without what it has more than ``dims``."""
        W = self.op("Reshape", grid, self.integers(shape.m, shape.n))
        if dims == (shape.m, shape.n):
            return W
        return self.op("Slice", W, self.integers(0, 0), self.integers(*dims))

    def indices(self, name: str, positions: Array, beside: int = 0) -> ir.Value:
        """Indices: plain ones where they are small ``beside`` so many bytes, else the smallest integers and a Cast.

        Runtimes fold the Cast when they load, in about 0.1 ms.
        """
        if 4 * positions.size <= beside // 100:
            return self.constant(name, positions.astype(np.int32))
        small = self.constant(name, positions.astype(smallest(int(positions.max(initial=0)))))
        return self.op("Cast", small, to=ir.DataType.INT64)


def _holds(value: ir.Value, array: Array) -> bool:
    if value.const_value is None or value.is_graph_input():
        return False
    same = value.const_value.numpy()
    return same.dtype == array.dtype and same.shape == array.shape and same.tobytes() == array.tobytes()
