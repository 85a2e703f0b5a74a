"""A linear map as a graph spells it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, tensor_of


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = x W^T + bias`` with a constant ``weight``: ``W [m, n]``, or ``W^T [n, m]`` where it is ``transposed``.

    ``x [..., n]`` and ``y [..., m]`` are row-major, or, for a product from the left and a 1x1 convolution
    (``channels_first``), ``x [..., n, S]`` and ``y [..., m, S]``. ``node`` is the product; ``y`` is its output. Where
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
        """The constant as it is, trailing axes of length 1 left out."""
        stored = tensor_of(self.weight).numpy()
        return stored.reshape(stored.shape[:2])

    @property
    def W(self) -> Array:
        """``W [m, n]``; of an integer product, the integers less their zero point."""
        matrix = self.stored.T if self.transposed else self.stored
        zero = self.zero_points[1] if self.zero_points is not None else None
        if zero is None or self.is_symmetric:
            return matrix
        less: Array = matrix.astype(np.int16) - tensor_of(zero).numpy().reshape(-1, 1)  # one for all rows, or one each
        return less

    @property
    def is_symmetric(self) -> bool:
        """True where a stored zero means zero: always but for 8-bit weights with another zero point."""
        zero = self.zero_points[1] if self.zero_points is not None else None
        return zero is None or not tensor_of(zero).numpy().any()

    @property
    def rank(self) -> int | None:
        """Axes of ``x``, where the graph tells."""
        return None if self.x.shape is None else len(self.x.shape)
