"""A constant of few bits that a ``DequantizeLinear`` makes floating again: ``W = scale (Q - zero point)``.

The scales and zero points are one for all, one a row or column, or, blocked, one a run of so many entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, is_constant, tensor_of

_KINDS = (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4)


@dataclass(frozen=True, slots=True)
class Scales:
    """``scale`` and ``zero`` points along an ``axis`` of the constant, one for every ``run`` entries (0: no runs)."""

    scale: ir.Value
    zero: ir.Value | None
    axis: int
    run: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of ``W``."""
        return tensor_of(self.scale).dtype.numpy()

    @property
    def label(self) -> str:
        """What tells kinds of them apart."""
        if tensor_of(self.scale).size == 1:
            return "a scale"
        return f"scales along axis {self.axis}" + f" in runs of {self.run}" * bool(self.run)

    def scales(self, dims: tuple[int, ...]) -> Array:
        """What the constant, seen as a matrix of these ``dims``, is multiplied by: it broadcasts to them."""
        return self._spread(tensor_of(self.scale).numpy(), dims)

    def zeros(self, dims: tuple[int, ...]) -> Array:
        """What is subtracted from it before."""
        zero = np.zeros((), np.int16) if self.zero is None else tensor_of(self.zero).numpy().astype(np.int16)
        return self._spread(zero, dims)

    def _spread(self, points: Array, dims: tuple[int, ...]) -> Array:
        if points.size == 1:
            return points.reshape(1, 1)
        if not self.run:
            return points.reshape(-1, 1) if self.axis == 0 else points.reshape(1, -1)
        spread = np.repeat(points, self.run, axis=self.axis)
        return spread[: dims[0]] if self.axis == 0 else spread[:, : dims[1]]


def dequantized(value: ir.Value) -> tuple[ir.Value, Scales] | None:
    """The constant of 4 or 8 bits that ``value`` is, with its scales; None where it is something else."""
    node = value.producer()
    if node is None or (node.op_type, node.domain) != ("DequantizeLinear", ""):
        return None
    small, scale, zero = (*node.inputs, None)[:3]
    if small is None or scale is None or not all(is_constant(part) for part in (small, scale, zero or scale)):
        return None
    if tensor_of(small).dtype not in _KINDS or tensor_of(scale).dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    dims = tensor_of(small).shape.numpy()
    axis = node.attributes.get_int("axis", 1) % max(len(dims), 1)
    run = node.attributes.get_int("block_size", 0)
    if len(dims) < 2 or axis > 1 or (run and len(dims) > 2) or 0 in dims:
        return None
    return small, Scales(scale, zero, axis, run)
