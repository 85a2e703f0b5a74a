"""A linear map as a graph spells it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, tensor_of


@dataclass(frozen=True, slots=True)
class Behind:
    """What a node does to its product: ``f(scale x W^T + bias_scale bias)``, ``activation`` an operator for ``f``."""

    scale: float = 1.0
    bias_scale: float = 1.0
    activation: str = ""
    parameters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = f(a x W^T + b bias)`` with a constant ``weight``: ``W [m, n]``, or ``W^T [n, m]`` where it is
    ``transposed``; its axes of length 1 around these two are left out. ``behind`` says what ``a``, ``b`` and ``f`` are.

    ``x [..., n]`` and ``y [..., m]`` are row-major, or, for a product from the left and a 1x1 convolution
    (``channels_first``), ``x [..., n, S]`` and ``y [..., m, S]``; where ``x`` is ``turned``, it is the other way round
    than ``y``. A convolution reads every ``strides``-th position. ``node`` is the product; ``y`` is its output. Where
    the exporter flattened leading axes ``around`` it, ``x`` is what was flattened and ``y`` the result in that shape
    again. An 8-bit product has the ``zero_points`` of ``x`` and ``W``; a ``static`` one is spelled as the product
    of two DequantizeLinear: ``x`` and the weight are what these read, ``y`` is a floating number.
    """

    node: ir.Node
    x: ir.Value
    y: ir.Value
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None = None
    behind: Behind = Behind()
    strides: tuple[int, ...] = ()
    turned: bool = False
    channels_first: bool = False
    zero_points: tuple[ir.Value | None, ir.Value | None] | None = None
    around: tuple[ir.Node, ...] = ()
    static: bool = False

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
        return self.channels_first != self.turned

    @property
    def upright(self) -> Array:
        """The constant as ``[m, n]``."""
        return self.stored.T if self.transposed else self.stored

    @property
    def W(self) -> Array:
        """``W [m, n]``; of an integer product, the integers less their zero point."""
        if self.is_symmetric:
            return self.upright
        less: Array = self.upright.astype(np.int16) - self.ground.astype(np.int16)
        return less

    @property
    def ground(self) -> Array:
        """What stands for zero in the constant, ``[1, 1]``, or ``[m, 1]`` where each row has its own."""
        zero = self.zero_points[1] if self.zero_points is not None else None
        points = np.zeros(1, self.stored.dtype) if zero is None else tensor_of(zero).numpy()
        return points.reshape(-1, 1)

    @property
    def is_symmetric(self) -> bool:
        """True where a stored zero means zero: always but for 8-bit weights with another zero point."""
        return not self.ground.any()

    @property
    def shift(self) -> int | None:
        """What makes the integers of ``W`` unsigned 8-bit ones: 128 where that does, None where nothing does."""
        low, high = int(self.W.min(initial=0)), int(self.W.max(initial=0))
        if low >= -128 and high <= 127:
            return 128
        return -low if high - low < 256 else None

    @property
    def rank(self) -> int | None:
        """Axes of ``x``, where the graph tells."""
        return None if self.x.shape is None else len(self.x.shape)
