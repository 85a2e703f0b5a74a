"""``Einsum`` with a constant that it sums over and keeps axes of: a product of two matrices, between Reshapes where
several axes of the constant are features, and Transposes where these are not the last ones.

    abc,cde->abde      x [a, b, c] W [c, d e], then [a, b, d e] as [a, b, d, e]
    ...ij,kj->...ik    x [..., i, j] W^T
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import is_constant, tensor_of

Axes = dict[str, int | ir.SymbolicDim | None]  # sizes by label; an axis that has none is free
_REST = "0123456789"  # labels of the axes that an equation has as "...": letters are its own


def einsum(build: Builder, node: ir.Node) -> ir.Value | str | None:
    """The product, in nodes; a sum of other operands, or one that is none, stays."""
    constants = [value is not None and is_constant(value) for value in node.inputs]
    if len(node.inputs) != 2 or sum(constants) != 1:
        return None
    weight, x = node.inputs if constants[0] else node.inputs[::-1]
    if weight is None or x is None:
        return None
    if not tensor_of(weight).dtype.is_floating_point():
        return "multiplies by a constant that is not floating"
    terms = _terms(node.attributes.get_string("equation", ""), x, constants[0])
    if isinstance(terms, str):
        return terms
    problem = _beyond_a_product(terms, x, tensor_of(weight))
    return problem or _product(build, terms, x, weight)


@dataclass(frozen=True, slots=True)
class _Terms:
    """The labels of ``x``, of the constant and of the output."""

    x: str
    weight: str
    y: str

    @property
    def inner(self) -> str:
        """What is summed over, in the order of ``x``: the features that come in."""
        return "".join(label for label in self.x if label in self.weight)

    @property
    def outer(self) -> str:
        """The features that go out."""
        return "".join(label for label in self.y if label in self.weight)

    @property
    def rows(self) -> str:
        """All other axes, in the order of ``y``."""
        return "".join(label for label in self.y if label not in self.weight)


def _terms(equation: str, x: ir.Value, is_weight_first: bool) -> _Terms | str:
    left, arrow, y = equation.replace(" ", "").partition("->")
    first, _, second = left.partition(",")
    labels, of_weight = (second, first) if is_weight_first else (first, second)
    if "..." in of_weight:
        return "gives its constant axes that it does not name"
    if not arrow:
        once = sorted(label for label in labels + of_weight if (labels + of_weight).count(label) == 1 and label != ".")
        y = "..." * ("..." in labels) + "".join(once)
    if "..." in labels:
        if x.shape is None:
            return "sums over axes of what the graph tells no shape of"
        rest = _REST[: len(x.shape) - len(labels.replace("...", ""))]
        labels, y = labels.replace("...", rest), y.replace("...", rest)
    return _Terms(labels, of_weight, y)


def _beyond_a_product(terms: _Terms, x: ir.Value, weight: ir.TensorProtocol) -> str | None:
    """What makes it another sum than ``x W^T``."""
    if len(terms.weight) != len(weight.shape) or (x.shape is not None and len(terms.x) != len(x.shape)):
        return "names other axes than there are"
    if any(len(set(labels)) < len(labels) for labels in (terms.x, terms.weight, terms.y)):
        return "takes a diagonal"
    if set(terms.x) & set(terms.weight) & set(terms.y):
        return "multiplies along an axis of its constant that it keeps"
    if set(terms.weight) - set(terms.x) - set(terms.y) or set(terms.x) - set(terms.weight) - set(terms.y):
        return "sums over an axis of one operand alone"
    if not terms.inner or not terms.outer:
        return "is no product of two matrices"
    return "multiplies by nothing" if 0 in weight.shape.numpy() else None


def _product(build: Builder, terms: _Terms, x: ir.Value, weight: ir.Value) -> ir.Value | str:
    inner, outer, rows = terms.inner, terms.outer, terms.rows
    sizes = dict(zip(terms.weight, tensor_of(weight).shape.numpy(), strict=True))
    matrix = _matrix(build, weight, terms, prod(sizes[label] for label in inner))
    if matrix is None:
        return "multiplies by a constant that others read in its own shape"
    axes: Axes = {**dict(zip(terms.x, x.shape or (), strict=False)), **sizes}
    value = _moved(build, x, terms.x, rows + inner, axes)
    if len(inner) > 1:
        value = build.op("Reshape", value, build.integers(*(0,) * len(rows), -1))
        value.type = x.type
        value.shape = _shape(rows, axes, prod(sizes[label] for label in inner))
    value = build.op("MatMul", value, matrix)
    value.type, value.shape = x.type, _shape(rows, axes, prod(sizes[label] for label in outer))
    if len(outer) > 1:
        value = build.op("Reshape", value, build.integers(*(0,) * len(rows), *(sizes[label] for label in outer)))
        value.type, value.shape = x.type, _shape(rows + outer, axes)
    return _moved(build, value, rows + outer, terms.y, axes)


def _matrix(build: Builder, weight: ir.Value, terms: _Terms, n: int) -> ir.Value | None:
    """``W^T [n, m]``; None where it would be in the file a second time."""
    wanted = terms.inner + terms.outer
    if len(wanted) == 2:
        return weight if wanted == terms.weight else build.op("Transpose", weight, perm=[1, 0])
    if len(weight.uses()) > 1 or weight.is_graph_output() or not weight.name:
        return None
    array = tensor_of(weight).numpy().transpose([terms.weight.index(label) for label in wanted]).reshape(n, -1)
    weight.const_value = ir.Tensor(np.ascontiguousarray(array), name=weight.name)
    weight.shape = ir.Shape(array.shape)
    return weight


def _moved(build: Builder, value: ir.Value, labels: str, wanted: str, axes: Axes) -> ir.Value:
    if labels == wanted:
        return value
    moved = build.op("Transpose", value, perm=[labels.index(label) for label in wanted])
    moved.type, moved.shape = value.type, _shape(wanted, axes)
    return moved


def _shape(labels: str, axes: Axes, *more: int) -> ir.Shape:
    return ir.Shape([*(axes.get(label) for label in labels), *more])
