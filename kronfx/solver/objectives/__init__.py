"""Objectives: what the integer program minimizes. One file each, one row each in the table below.

To add one: a file beside these, whose docstring says what is minimized and whose ``MEANS`` says of what; its name among
those of ``Objective``, and its row. Work that has a price (so much a multiply-add, an entry moved, a product) is a
function ``rates`` and a row of ``priced``, as ``flops`` is. What no price tells is a function ``search`` that ranks
every shape of the grids, as of ``params`` and ``deployed``, and a row of ``Rule``. The planner and the documentation
take it from here;
the oracle that knows its value is ``value`` in ``tests/objective_values.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kronfx.cost import by_time, cheapest
from kronfx.records import Evaluation, KroneckerShape, Rates
from kronfx.solver import by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives import deployed, flops, latency, params, training_flops
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking

Objective = Literal["params", "flops", "training_flops", "latency", "deployed"]
Passes = Literal["forward", "training"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: the ``unit`` of the value, what it ``means``, the ``search`` for its least values, and the
    ``evaluation`` of a shape, given the taps of its kernel.

    ``rates`` says which ones of a machine the question must bring: of a forward pass, or of training, which a plan
    measures by itself.
    """

    unit: str
    means: str
    search: Callable[[list[Grid], Question, Ranking], None]
    evaluation: Callable[[Question, KroneckerShape, int], Evaluation]
    rates: Passes | None = None

    @property
    def remedy(self) -> str:
        """How to come by its rates."""
        return f"pass rates=kronfx.calibrate({'backward=True' if self.rates == 'training' else ''})"


def priced(unit: str, means: str, rates: Callable[[Question], Rates], needed: Passes | None = None) -> Rule:
    """What the best evaluation of a shape costs at these rates, which that evaluation is chosen by too."""

    def search(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
        by_pair.search(grids, by_pair.WorkPrice(asked.rank, asked.rows, rates(asked)), ranking)

    def evaluation(asked: Question, shape: KroneckerShape, taps: int) -> Evaluation:
        return cheapest(shape, asked.rank, asked.rows, taps, by_time(rates(asked)))

    return Rule(unit, means, search, evaluation, needed)


OBJECTIVES: dict[Objective, Rule] = {
    "params": Rule("parameters", params.MEANS, params.search, params.evaluation),
    "flops": priced("multiply-adds", flops.MEANS, flops.rates),
    "training_flops": priced("multiply-adds of a training step", training_flops.MEANS, training_flops.rates),
    "latency": priced("attoseconds", latency.MEANS, latency.rates, "forward"),
    "deployed": Rule("attoseconds", deployed.MEANS, deployed.search, deployed.evaluation, "training"),
}
