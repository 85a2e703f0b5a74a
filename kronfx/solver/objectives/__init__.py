"""Objectives: what the integer program minimizes. One file each, one row each in the table below.

To add one: a file beside these, whose docstring says what is minimized and whose ``MEANS`` says of what; its name among
those of ``Objective``, and its row. Work that has a price (so much a multiply-add, an entry moved, a product) is a
function ``rates`` and a row of ``priced``, as ``flops`` is. What no price tells is a function ``search`` that ranks
every shape of the grids, as ``params`` is, and a row of ``Rule``. The planner and the documentation take it from here;
the oracle that knows its value is ``_value`` in ``tests/solver/test_solver.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kronfx.cost import Price, by_multiply_adds, by_time
from kronfx.records import Rates
from kronfx.solver import by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives import flops, latency, params, training_flops
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking

Objective = Literal["params", "flops", "training_flops", "latency"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the ``unit`` of the value, what it ``means``, the ``search`` for its least values.

    ``price`` is what the evaluation of the best shape is chosen by, ``needs_rates`` whether the question must bring
    those of a machine.
    """

    unit: str
    means: str
    search: Callable[[list[Grid], Question, Ranking], None]
    price: Callable[[Question], Price] = lambda _: by_multiply_adds
    needs_rates: bool = False


def priced(unit: str, means: str, rates: Callable[[Question], Rates], needs_rates: bool = False) -> Rule:
    """What the best evaluation of a shape costs at these rates, which that evaluation is chosen by too."""

    def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
        by_pair.search(grids, by_pair.Priced(asked.rank, asked.rows, rates(asked)), ranking)

    return Rule(unit, means, search, lambda asked: by_time(rates(asked)), needs_rates)


OBJECTIVES: dict[Objective, Rule] = {
    "params": Rule("parameters", params.MEANS, params.search),
    "flops": priced("multiply-adds", flops.MEANS, flops.rates),
    "training_flops": priced("multiply-adds of a training step", training_flops.MEANS, training_flops.rates),
    "latency": priced("attoseconds", latency.MEANS, latency.rates, needs_rates=True),
}
