"""Objectives: what the integer program minimizes. One file each, one row each in the table below.

To add one: a file beside these, whose docstring says what is minimized, with a function ``search`` that ranks every
shape of the grids by it; its name among those of ``Objective``, and its row. Work that has a price (so much a
multiply-add, an entry moved, a product) is searched by ``by_pair.search`` at rates of your own, as ``flops`` is; what
sees only ``m1 n1``, as ``params`` does, by ``by_product.search``. The planner, the documentation and the tests take it
from here; an oracle that knows its value belongs into ``tests/test_solver.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kronfx.cost import Price, by_multiply_adds
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


OBJECTIVES: dict[Objective, Rule] = {
    "params": Rule("parameters", params.MEANS, params.search),
    "flops": Rule("multiply-adds", flops.MEANS, flops.search),
    "training_flops": Rule("multiply-adds of a training step", training_flops.MEANS, training_flops.search),
    "latency": Rule("attoseconds", latency.MEANS, latency.search, latency.price, needs_rates=True),
}
