"""A linear map as a graph spells it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.dequantized import Scales
from kronfx.deploy.nodes.values import Array, tensor_of


@dataclass(frozen=True, slots=True)
class Behind:
    """What a node does to its product: ``f(scale x W^T + bias_scale bias)``, ``activation`` an operator for ``f``."""

    scale: float = 1.0
    bias_scale: float = 1.0
    activation: str = ""
    parameters: tuple[tuple[str, float], ...] = ()


class Requantized(NamedTuple):
    """Scales of ``x``, ``W`` and ``y``, and the zero point of ``y``: 8-bit numbers as ``x`` is."""

    x_scale: ir.Value
    scale: ir.Value
    y_scale: ir.Value
    y_zero: ir.Value


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = f(a x W^T + b bias)`` with a constant ``weight``: ``W [m, n]``, or ``W^T [n, m]`` where it is
    ``transposed``; its axes of length 1 around these two are left out. ``behind`` says what ``a``, ``b`` and ``f`` are.

    ``x [..., n]`` and ``y [..., m]`` are row-major, or, for a product from the left and a 1x1 convolution
    (``channels_first``), ``x [..., n, S]`` and ``y [..., m, S]``; where ``x_transposed``, ``x`` is the other way round
    than ``y``. A convolution reads every ``strides``-th position. ``node`` is the product; ``y`` is its output. Where
    the exporter flattened leading axes ``around`` it, ``x`` is what was flattened and ``y`` the result in that shape
    again. An 8-bit product has the ``zero_points`` of ``x`` and ``W``; a ``static`` one is spelled as the product of
    two DequantizeLinear: ``x`` and the weight are what these read, ``y`` is a floating number. Where the weight alone
    is quantized, its ``scales`` make the integers ``W``; where ``y`` is 8-bit too, it is ``requantized``.
    """

    node: ir.Node
    x: ir.Value
    y: ir.Value
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None = None
    behind: Behind = Behind()
    strides: tuple[int, ...] = ()
    x_transposed: bool = False
    channels_first: bool = False
    zero_points: tuple[ir.Value | None, ir.Value | None] | None = None
    around: tuple[ir.Node, ...] = ()
    static: bool = False
    scales: Scales | None = None
    requantized: Requantized | None = None

    @property
    def site(self) -> str:
        """The weight's name, empty where it has none."""
        return self.weight.name or ""

    @property
    def stored(self) -> Array:
        """The constant as a matrix: a kernel's axes of length 1 are behind it, a stack's in front."""
        stored = tensor_of(self.weight).numpy()
        return stored.reshape(stored.shape[:2] if self.is_convolution else stored.shape[-2:])

    @property
    def is_convolution(self) -> bool:
        """True where ``x`` is ``[B, n, ...]`` with positions behind the features."""
        return self.node.op_type == "Conv"

    @property
    def has_channels_first(self) -> bool:
        """True where ``x`` is ``[..., n, S]``."""
        return self.channels_first != self.x_transposed

    @property
    def upright(self) -> Array:
        """The constant as ``[m, n]``."""
        return self.stored.T if self.transposed else self.stored

    @property
    def W(self) -> Array:
        """``W [m, n]``; of an integer product, the integers less their zero point."""
        if self.scales is not None:
            scale = self.row_scales.astype(np.float32)
            scaled: Array = (self.integers.astype(np.float32) * scale).astype(self.scales.dtype)
            return scaled
        return self.upright if self.is_symmetric else self.integers

    @property
    def dims(self) -> tuple[int, int]:
        """``(m, n)``."""
        m, n = self.upright.shape
        return m, n

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of ``W``, but for zero points."""
        return self.stored.dtype if self.scales is None else self.scales.dtype

    @property
    def integers(self) -> Array:
        """The stored integers less what stands for zero in them, ``[m, n]``."""
        zero = self.ground.astype(np.int16)
        if self.scales is not None:
            zero = self.scales.zeros(self.stored.shape)
            zero = zero.T if self.transposed else zero
        less: Array = self.upright.astype(np.int16) - zero
        return less

    @property
    def row_scales(self) -> Array:
        """What those are multiplied by, where there are ``scales``: it broadcasts to ``[m, n]``."""
        scales = np.ones((1, 1)) if self.scales is None else self.scales.scales(self.stored.shape)
        return scales.T if self.transposed else scales

    @property
    def ground(self) -> Array:
        """What stands for zero in the constant: ``[1, 1]``, or ``[m, 1]`` or ``[1, n]`` where each row or column has
        its own. Zero where every run of a row has."""
        if self.scales is not None:
            zeros = self.scales.zeros(self.stored.shape)
            zeros = zeros.T if self.transposed else zeros
            if (zeros == zeros[:1, :1]).all():
                zeros = zeros[:1, :1]
            return (zeros if 1 in zeros.shape else np.zeros((1, 1))).astype(self.stored.dtype)
        zero = self.zero_points[1] if self.zero_points is not None else None
        points = np.zeros(1, self.stored.dtype) if zero is None else tensor_of(zero).numpy()
        return points.reshape(-1, 1)

    @property
    def is_symmetric(self) -> bool:
        """True where a stored zero means zero: always but for 8-bit weights with another zero point."""
        return not self.ground.any()

    @property
    def shift(self) -> int | None:
        """What makes the integers of ``W`` of the ``kind``, 128 where that makes them unsigned ones; None where nothing
        does."""
        W = self.W
        low, high = int(W.min(initial=0)), int(W.max(initial=0))
        if self.kind == np.int8:
            return 0 if low >= -128 and high <= 127 else None
        if low >= -128 and high <= 127:
            return 128
        return -low if high - low < 256 else None

    @property
    def kind(self) -> np.dtype[np.generic]:
        """The type of 8-bit weights on the left of a product: unsigned, or, where it answers signed ones, as those."""
        return np.dtype(np.uint8) if self.requantized is None else tensor_of(self.requantized.y_zero).dtype.numpy()

    @property
    def rank(self) -> int | None:
        """Axes of ``x``, where the graph tells."""
        return None if self.x.shape is None else len(self.x.shape)
