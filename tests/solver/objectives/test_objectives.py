"""An objective is one row of a table: what is in it is solved, planned and documented, with nothing else changed."""

from __future__ import annotations

import inspect
from itertools import product
from typing import get_args

import pytest
from torch import nn

import kronfx as kx
from kronfx.solver import OBJECTIVES, Objective, by_pair
from kronfx.solver.grids import Grid
from kronfx.solver.objectives import Rule
from kronfx.solver.objectives.question import Question
from kronfx.solver.ranking import Ranking


def traffic(grids: list[Grid], asked: Question, ranking: Ranking) -> None:
    """Entries that the best evaluation reads and writes."""
    by_pair.search(grids, by_pair.Priced(asked.rank, asked.rows, kx.Rates(0, 1, 0)), ranking)


def least_traffic(m: int, n: int, rank: int, rows: int) -> int:
    """By trying every shape."""
    values = []
    for m1, n1 in product((d for d in range(1, m + 1) if m % d == 0), (d for d in range(1, n + 1) if n % d == 0)):
        m2, n2 = m // m1, n // n1
        outside = rows * (m + n) + rank * (m1 * n1 + m2 * n2)
        values += [outside + 2 * rows * rank * inner for inner in (m1 * n2, n1 * m2)] + [outside + 2 * m * n]
    return min(values)


@pytest.mark.parametrize(("m", "n", "rank", "rows"), [(48, 36, 1, 4), (60, 84, 3, 128), (7, 64, 2, 1)])
def test_a_new_row_is_all_it_takes(monkeypatch: pytest.MonkeyPatch, m: int, n: int, rank: int, rows: int) -> None:
    monkeypatch.setitem(OBJECTIVES, "traffic", Rule("entries", "read and written", traffic))  # type: ignore[arg-type]
    solution = kx.solve(m, n, rank=rank, rows=rows, objective="traffic")  # type: ignore[arg-type]
    assert solution.objective == solution.lower_bound == least_traffic(m, n, rank, rows)
    assert f"{solution.objective:,} entries (proven optimal" in str(solution)
    plan = kx.plan(nn.Linear(84, 60), rank=3, rows=128, objective="traffic")  # type: ignore[arg-type]
    assert plan.choices[0].shape == kx.solve(60, 84, rank=3, rows=128, objective="traffic").shape  # type: ignore[arg-type]


def test_a_row_can_need_the_rates_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    needing = Rule("entries", "read and written", traffic, needs_rates=True)
    monkeypatch.setitem(OBJECTIVES, "traffic", needing)  # type: ignore[arg-type]
    with pytest.raises(kx.KronfxError, match="objective='traffic' with rates=None; needed the rates of this machine"):
        kx.solve(8, 8, objective="traffic")  # type: ignore[arg-type]
    with pytest.raises(kx.KronfxError, match="objective='traffic' without rates; needed the rates of this machine"):
        kx.plan(nn.Linear(8, 8), objective="traffic")  # type: ignore[arg-type]


def test_the_table_has_the_names_and_the_documentation_has_the_table() -> None:
    assert set(get_args(Objective)) == set(OBJECTIVES)
    for verb in (kx.solve, kx.plan):
        text = " ".join((inspect.getdoc(verb) or "").split())
        for name, rule in OBJECTIVES.items():
            assert name in text
            assert rule.means in text
            assert rule.unit in text
