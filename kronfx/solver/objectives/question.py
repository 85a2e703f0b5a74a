"""What an objective is asked."""

from __future__ import annotations

from dataclasses import dataclass

from kronfx.records import Rates

MULTIPLY_ADDS = Rates(1, 0, 0)


@dataclass(frozen=True, slots=True)
class Question:
    """The rank ``r``, the expected rows ``N`` of ``x``, and the rates of a machine: one a multiply-add where none were
    measured."""

    rank: int
    rows: int
    rates: Rates = MULTIPLY_ADDS
