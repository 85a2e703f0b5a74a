"""The factors of one site as a value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kronfx import kron
from kronfx.records import KroneckerShape


@dataclass(frozen=True, slots=True)
class Factors:
    """The trained factors of one site: ``S [m1, n1]``, ``A [r, m1, n1]``, ``B [r, m2, n2]`` (live, not copies).

    ``features``: ``(m, n)`` of a ``W`` that is smaller than ``m1 m2 x n1 n2``; what is beyond is sliced off.
    """

    S: Tensor
    A: Tensor
    B: Tensor
    features: tuple[int, int] | None = None

    @property
    def shape(self) -> KroneckerShape:
        """``(m1, n1, m2, n2)``."""
        return kron.shape_of(self.A, self.B)

    @property
    def rank(self) -> int:
        """``r``: how many Kronecker products are summed."""
        return self.A.shape[-3]

    def materialize(self) -> Tensor:
        """``W [m, n] = sum_i (S * A_i) kron B_i``."""
        W = kron.materialize(self.S, self.A, self.B)
        return W if self.features is None else W[..., : self.features[0], : self.features[1]]

    @property
    def transposed(self) -> Factors:
        """Those of ``W^T [n, m]``: every factor transposed."""
        return Factors(self.S.mT, self.A.mT, self.B.mT, self.features and self.features[::-1])
