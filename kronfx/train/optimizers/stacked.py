"""The factors as the two products read them: stacked matrices, which is what a step's length is about.

``a_first`` multiplies by ``A_s [m1 r, n1]``, then by ``B_s [m2, r n2]``; ``b_first`` by ``B_s [r m2, n2]``, then by
``A_s [m1, n1 r]``. ``materialize`` forms ``W`` from the same factors and counts as ``a_first``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kronfx.layers import KroneckerLinear
from kronfx.records import Evaluation


@dataclass(frozen=True, slots=True)
class Stacking:
    """How one layer stacks its factors: by its evaluation and its rank.

    Leading axes (experts) pass through.
    """

    evaluation: Evaluation
    rank: int

    def of_A(self, A: Tensor) -> Tensor:
        """``A [..., r, m1, n1]`` as ``A_s``."""
        if self.evaluation == "b_first":
            return A.movedim(-3, -1).flatten(-2)
        return A.transpose(-3, -2).flatten(-3, -2)

    def to_A(self, matrix: Tensor) -> Tensor:
        """``A_s`` as ``A [..., r, m1, n1]``."""
        if self.evaluation == "b_first":
            factor: Tensor = matrix.unflatten(-1, (-1, self.rank)).movedim(-1, -3)
        else:
            factor = matrix.unflatten(-2, (-1, self.rank)).transpose(-3, -2)
        return factor

    def of_B(self, B: Tensor) -> Tensor:
        """``B [..., r, m2, n2]`` as ``B_s``."""
        if self.evaluation == "b_first":
            return B.flatten(-3, -2)
        return B.transpose(-3, -2).flatten(-2)

    def to_B(self, matrix: Tensor) -> Tensor:
        """``B_s`` as ``B [..., r, m2, n2]``."""
        if self.evaluation == "b_first":
            factor: Tensor = matrix.unflatten(-2, (self.rank, -1))
        else:
            factor = matrix.unflatten(-1, (self.rank, -1)).transpose(-3, -2)
        return factor


def stacking(layer: KroneckerLinear) -> Stacking:
    """How this layer stacks its factors."""
    return Stacking(layer.evaluation, layer.rank)


def fans(layer: KroneckerLinear) -> tuple[tuple[int, int], tuple[int, int]]:
    """``(d_in, d_out)`` of ``A_s`` and of ``B_s``: each is a batch of maps from ``d_in`` to ``d_out`` features."""
    shape, r = layer.grid, layer.rank
    if layer.evaluation == "b_first":
        return (r * shape.n1, shape.m1), (shape.n2, r * shape.m2)
    return (shape.n1, r * shape.m1), (r * shape.n2, shape.m2)
