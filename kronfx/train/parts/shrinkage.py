"""What a penalty charges a group for, and its proximal operator: one axis; how the weight is cut is the other.

A charge depends on a group's Frobenius norm alone, so its proximal operator scales the group as a whole:
``argmin_z 1/2 ||z - W_g||^2 + t charge(||z||) = factor(||W_g||, t) W_g``. The groups of a factored layer are the
entries of ``S``, one a block of ``W``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kronfx.errors import TrainError
from kronfx.train.options import is_number, value_of

EMPTY = 1e-30  # stands in for a norm of 0 below a fraction


class Shrinkage(Protocol):
    """A charge on norms ``[G]`` and its proximal operator."""

    def charge(self, norms: Tensor) -> Tensor:
        """The penalty of every group at strength 1."""

    def factor(self, norms: Tensor, threshold: float) -> Tensor:
        """What every group is multiplied by, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Lasso:
    """``||W_g||_F`` (paper, Eq. 1): norms shrink by the threshold, down to exactly zero."""

    def charge(self, norms: Tensor) -> Tensor:
        """The norm."""
        return norms

    def factor(self, norms: Tensor, threshold: float) -> Tensor:
        """``max(1 - t / ||W_g||, 0)``."""
        return torch.clamp(1 - threshold / norms.clamp_min(EMPTY), min=0)


@dataclass(frozen=True, slots=True)
class Elastic:
    """``||W_g||_F + ridge / 2 ||W_g||_F^2``: the lasso with a ridge (Oyedotun et al., WACV 2020), which holds the large
    groups back too, so that several that say the same stay together. Raises TrainError on a negative ridge."""

    ridge: float = 1.0

    def __post_init__(self) -> None:
        if not (is_number(self.ridge) and 0 <= self.ridge < float("inf")):
            raise TrainError("", f"ridge={self.ridge!r}", "a finite ridge of 0 or more", "try 1.0")

    def charge(self, norms: Tensor) -> Tensor:
        """The norm and half its square."""
        return norms + self.ridge / 2 * norms.square()

    def factor(self, norms: Tensor, threshold: float) -> Tensor:
        """``max(1 - t / ||W_g||, 0) / (1 + t ridge)``."""
        return Lasso().factor(norms, threshold) / (1 + threshold * self.ridge)


def as_shrinkage(wish: Shrinkage | None) -> Shrinkage:
    """The one that was given, a lasso where none was. Raises TrainError on what is none."""
    return Lasso() if wish is None else value_of("shrinkage", wish, method="factor", example="Lasso()")
