"""Which constant of an exported graph is which tensor of the model.

The exporter renames, transposes, merges and rescales weights (a linear layer followed by a batch norm is
fused), so they are looked up by value, bit by bit, and where that fails by their pattern of zero blocks. A wrong guess
by pattern could only mislabel a row of the report: what is stored is then computed from the constant itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, Content, content, tensor_of
from kronfx.deploy.storage import survivors
from kronfx.records import KroneckerShape


@dataclass(frozen=True, slots=True)
class Constant:
    """An initializer that is a matrix ``[m, n]`` of the model, or its transpose ``[n, m]``; of a kernel ``[m, channels,
    *taps]`` that of its patches."""

    value: ir.Value
    transposed: bool

    @property
    def array(self) -> Array:
        """The constant as ``[m, n]``."""
        stored = _matrix(self.value)
        return stored.T if self.transposed else stored


class Weights:
    """The floating matrices of a graph's constants, kernels of convolutions among them."""

    def __init__(self, constants: Iterable[ir.Value]) -> None:
        self.matrices = [value for value in constants if _is_matrix(value)]

    @cached_property
    def _dims(self) -> set[tuple[int, ...]]:
        return {_dims(value) for value in self.matrices}

    @cached_property
    def _by_value(self) -> dict[Content, list[ir.Value]]:
        by_value: dict[Content, list[ir.Value]] = {}  # takes a second for 500 MB, so only once somebody asks
        for value in self.matrices:
            by_value.setdefault(content(_matrix(value)), []).append(value)
        return by_value

    def equal(self, W: Array) -> list[Constant]:
        """Every constant that holds ``W [m, n]`` or its transpose, bit by bit."""
        if W.shape not in self._dims and W.shape[::-1] not in self._dims:
            return []
        upright = [Constant(value, False) for value in self._by_value.get(content(W), [])]
        transposed = [Constant(value, True) for value in self._by_value.get(content(W.T), [])]
        symmetric = {constant.value for constant in upright}
        return upright + [constant for constant in transposed if constant.value not in symmetric]

    def alike(self, mask: Array, shape: KroneckerShape) -> Iterator[Constant]:
        """Every constant of this shape whose zero blocks are exactly those of ``mask [m1, n1]``."""
        for value in self.matrices:
            for transposed, dims in ((False, (shape.m, shape.n)), (True, (shape.n, shape.m))):
                constant = Constant(value, transposed)
                if _dims(value) != dims:
                    continue
                if np.array_equal(survivors(constant.array, shape).mask, mask):
                    yield constant

    def called(self, site: str, dims: tuple[int, int]) -> Iterator[Constant]:
        """Every constant ``[m, n]``, or its transpose, that is called after a site."""
        for value in self.matrices:
            is_called = site in (value.name, (value.name or "").rpartition(".")[0])
            if is_called and _dims(value) in (dims, dims[::-1]):
                yield Constant(value, _dims(value) != dims)


def _is_matrix(value: ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point():
        return False
    is_kernel = tensor.size and any((use.node.op_type, use.idx) == ("Conv", 1) for use in value.uses())
    return len(tensor.shape) == 2 or (len(tensor.shape) > 2 and bool(is_kernel))


def _dims(value: ir.Value) -> tuple[int, int]:
    """Of its matrix; nothing of it is read."""
    rows, *columns = tensor_of(value).shape.numpy()
    return rows, math.prod(columns)


def _matrix(value: ir.Value) -> Array:
    stored: Array = tensor_of(value).numpy()
    return stored if stored.ndim == 2 else stored.reshape(_dims(value))
