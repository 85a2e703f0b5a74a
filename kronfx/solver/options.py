"""What can be asked of the integer program: every option once, as :mod:`kronfx.options` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from typing_extensions import TypedDict

from kronfx.errors import SolveError
from kronfx.options import option, settle
from kronfx.records import EXPECTED_ROWS, Rates
from kronfx.solver import checks
from kronfx.solver.checks import Pair
from kronfx.solver.objectives import OBJECTIVES, Objective

Checked = TypeVar("Checked")


class SolveKeywords(TypedDict, total=False):
    """The names and types of :class:`SolveOptions`, for static checkers."""

    rank: int
    objective: Objective
    rows: int
    taps: int
    block: Pair
    min_block: Pair
    max_block: Pair
    multiple_of: Pair
    padding: float
    rates: Rates | None
    runners_up: int


def _alone(check: Callable[[str, str, object], Checked]) -> Callable[[str, object], Checked]:
    """A check that does not know of which layer it is."""
    return partial(check, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveOptions:
    """The options of :func:`kronfx.solve`, each checked. Raises SolveError."""

    rank: int = option(
        1,
        "terms ``A_i kron B_i``",
        "it is not capped at ``min(m1 n1, m2 n2)``: every rank has an optimum.",
        _alone(checks.positive),
    )
    objective: Objective = option(
        "params",
        "a name",
        "what is minimized: "
        + "; ".join(f'``"{name}"`` ({rule.unit}: {rule.means})' for name, rule in OBJECTIVES.items())
        + ".",
        _alone(checks.objective),
    )
    rows: int = option(
        EXPECTED_ROWS, "rows of ``x``", "how many to expect (batch times sequence).", _alone(checks.positive)
    )
    taps: int = option(
        1,
        "positions of a kernel",
        """of a convolution, whose ``in_features`` count channels: all of them stay in the block, whose ``n2`` is
        channels times taps; the constraints speak of channels.""",
        _alone(checks.positive),
    )
    block: Pair = option(
        None,
        "entries, ``(m2, n2)``",
        "what the block must be; an int stands for both, None in a pair leaves one free: ``(16, None)``.",
        _alone(checks.pair),
    )
    min_block: Pair = option(None, "entries, ``(m2, n2)``", "what it must not be below.", _alone(checks.pair))
    max_block: Pair = option(None, "entries, ``(m2, n2)``", "what it must not be above.", _alone(checks.pair))
    multiple_of: Pair = option(None, "entries, ``(m2, n2)``", "what it must be a multiple of.", _alone(checks.pair))
    padding: float = option(
        0.0,
        "share of a dimension",
        """by how much each may grow where that wins. A padded shape is wider than ``W`` by less than one block either
        way, and all of it counts.""",
        _alone(checks.share),
    )
    rates: Rates | None = option(
        None, "attoseconds", "what the machine takes, from ``kronfx.calibrate``, where the objective is a time."
    )
    runners_up: int = option(3, "shapes", "how many of the next best to prove as well.", _alone(checks.count))

    def __post_init__(self) -> None:
        settle(self)
        rule = OBJECTIVES[self.objective]
        if rule.rates is not None and not isinstance(self.rates, Rates):
            found = f"objective={self.objective!r} with rates={self.rates!r}"
            raise SolveError("", found, "the rates of this machine", rule.remedy)
