"""What a column of the zoo table says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

# float32: some thousand roundings of 6e-8, relative to the largest entry of an output.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Outcome:
    """``holds`` and ``fails`` are kronfx's; ``open`` says why there is nothing to judge."""

    verdict: Literal["holds", "fails", "open"]
    text: str

    def __str__(self) -> str:
        return {"holds": self.text or "yes", "fails": "FAILS", "open": "-"}[self.verdict]


def judged(error: float, tolerance: float = TOLERANCE) -> Outcome:
    """An error held against a tolerance."""
    if error <= tolerance:
        return Outcome("holds", f"{error:.0e}" if error else "0")
    return Outcome("fails", f"relative error {error:.1e}, tolerance {tolerance:.0e}")


def deviation(actual: list[Tensor], wanted: list[Tensor]) -> float:
    """``max |y - y_ref| / max |y_ref|``, the largest over all outputs; infinite where shapes or types differ."""
    if [(y.shape, y.dtype) for y in actual] != [(y.shape, y.dtype) for y in wanted]:
        return float("inf")
    return max(map(_deviation, actual, wanted))


def _deviation(actual: Tensor, wanted: Tensor) -> float:
    if not wanted.is_floating_point():
        return 0.0 if torch.equal(actual, wanted) else float("inf")
    difference, scale = (actual - wanted).abs().max(), wanted.abs().max()
    return float((difference / scale).nan_to_num(nan=float("inf"))) if scale else float(difference)
