"""A factored constant as its factors.

``W [m, n] = sum_i (S * A_i) kron B_i`` becomes ``left [m1, 1, n1, r]``, which is ``S * A``, and ``right
[1, m2, r, n2]``, which is ``B``, and one product of many small matrices, which writes the whole weight once, in its own
order:

    W[p m2 + q, j n2 + k] = sum_i left[p, 0, j, i] right[0, q, i, k]

It is in float32 where the factors have 16 bits, of which onnxruntime has no product on CPUs. A zero of ``S`` makes a
block exactly zero. All other entries are the folded weight's but for the rounding of ``r`` additions.

``right`` passes through an Identity: onnxruntime's dynamic quantization takes a product with an initializer for a
layer, and would round the factors to 8 bits where nothing is gained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import Array, array_of
from kronfx.layers import Factors
from kronfx.records import KroneckerShape


@dataclass(frozen=True, slots=True)
class Product:
    """``left [m1, 1, n1, r]`` and ``right [1, m2, r, n2]`` of one weight ``W [m, n]``."""

    left: Array
    right: Array
    dims: tuple[int, int]  # (m, n), less than one block short of the grid where that is padded

    @property
    def shape(self) -> KroneckerShape:
        """``(m1, n1, m2, n2)``."""
        return KroneckerShape(self.left.shape[0], self.left.shape[2], self.right.shape[1], self.right.shape[3])

    @property
    def bytes(self) -> int:
        """Size of what is stored."""
        return int(self.left.nbytes + self.right.nbytes)

    @property
    def W(self) -> Array:
        """``W [m, n]``."""
        left, right = (part.astype(np.promote_types(part.dtype, np.float32)) for part in (self.left, self.right))
        W: Array = np.matmul(left, right).astype(self.left.dtype).reshape(self.shape.m, self.shape.n)
        return W[: self.dims[0], : self.dims[1]]

    @property
    def T(self) -> Product:
        """That of ``W^T``: the factors of a transposed Kronecker product are the transposed factors."""
        return Product(self.left.transpose(2, 1, 0, 3), self.right.transpose(0, 3, 2, 1), (self.dims[1], self.dims[0]))

    def rebuilt(self, build: Builder, site: str) -> ir.Value:
        """``W [m, n]``, by nodes."""
        left = build.constant(f"{site}/left", self.left)
        right = build.op("Identity", build.constant(f"{site}/right", self.right))
        if self.left.itemsize > 2:
            return build.matrix(build.op("MatMul", left, right), self.shape, self.dims)
        wide = (build.op("Cast", half, to=ir.DataType.FLOAT) for half in (left, right))
        grid = build.op("Cast", build.op("MatMul", *wide), to=ir.DataType.from_numpy(self.left.dtype))
        return build.matrix(grid, self.shape, self.dims)


def storage(_: object, product: Product | None) -> Product | None:
    """The factors, of a weight that has them."""
    return product


def product(factors: Factors, dims: tuple[int, int], dtype: np.dtype[np.generic]) -> Product:
    """The factors of ``W [m, n]``, in the type that the graph has it in."""
    left = array_of((factors.S * factors.A).detach().permute(1, 2, 0).unsqueeze(1))
    right = array_of(factors.B.detach().transpose(0, 1).unsqueeze(0))
    return Product(left.astype(dtype), right.astype(dtype), dims)


def products(graph: ir.Graph) -> Iterator[tuple[str, Product]]:
    """What is rebuilt in a graph that was stored so: the sites and their factors."""
    for node in graph:
        if (node.op_type, node.domain, len(node.inputs)) != ("MatMul", "", 2):
            continue
        left, right = (_stored(value) for value in node.inputs)
        if not (_is_named(left, "/left") and _is_named(right, "/right")):
            continue
        pair = Product(_array(left), _array(right), (0, 0))
        if _fits(pair.left, pair.right):
            dims = _dims(node.outputs[0], (pair.shape.m, pair.shape.n))
            yield _name(left).removesuffix("/left"), replace(pair, dims=dims)


def _fits(left: Array, right: Array) -> bool:
    """They are ``[m1, 1, n1, r]`` and ``[1, m2, r, n2]``: anybody may call a constant left or right."""
    return left.ndim == right.ndim == 4 and left.shape[1] == right.shape[0] == 1 and left.shape[3] == right.shape[2]


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initializer that a value is a copy of."""
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Identity", "Cast"):
        value = node.inputs[0]
    return value


def _name(value: ir.Value | None) -> str:
    return (value.name or "").rstrip("/") if value is not None else ""


def _is_named(value: ir.Value | None, ending: str) -> bool:
    return value is not None and value.const_value is not None and _name(value).endswith(ending)


def _array(value: ir.Value | None) -> Array:
    return np.asarray(value.const_value.numpy()) if value is not None and value.const_value is not None else np.zeros(0)


def _dims(grid: ir.Value, dims: tuple[int, int]) -> tuple[int, int]:
    """Those of ``W``, which is cut where the grid is padded."""
    for user in grid.consumers():
        if user.op_type in ("Cast", "Reshape"):
            return _dims(user.outputs[0], dims)
        ends = _array(user.inputs[2]) if user.op_type == "Slice" else np.zeros(0)
        if ends.size == 2:
            return int(ends[0]), int(ends[1])
    return dims
