"""An objective is one row of a table: what is in it is solved, planned and documented, with nothing else changed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import product
from typing import get_args

import pytest
from torch import nn

import kronfx as kx
from kronfx.solver import OBJECTIVES, Objective
from kronfx.solver.objectives import priced

ROW = priced("entries", "read and written", lambda _: kx.Rates(0, 1, 0))


def traffic(m1: int, n1: int, m2: int, n2: int, rank: int, rows: int) -> dict[str, int]:
    """Entries that each evaluation reads and writes."""
    m, n = m1 * m2, n1 * n2
    outside = rows * (m + n) + rank * (m1 * n1 + m2 * n2)
    inner = {"a_first": rows * rank * m1 * n2, "b_first": rows * rank * n1 * m2, "materialize": m * n}
    return {evaluation: outside + 2 * entries for evaluation, entries in inner.items()}


def least_traffic(m: int, n: int, rank: int, rows: int) -> int:
    """By trying every shape."""
    divisors = [[d for d in range(1, size + 1) if size % d == 0] for size in (m, n)]
    return min(min(traffic(m1, n1, m // m1, n // n1, rank, rows).values()) for m1, n1 in product(*divisors))


SIZES = [(48, 36, 1, 4), (60, 84, 3, 128), (7, 64, 2, 1), (48, 36, 4, 512)]


@pytest.mark.parametrize(("m", "n", "rank", "rows"), SIZES)
def test_a_new_row_is_all_it_takes(monkeypatch: pytest.MonkeyPatch, m: int, n: int, rank: int, rows: int) -> None:
    monkeypatch.setitem(OBJECTIVES, "traffic", ROW)  # type: ignore[arg-type]
    solution = kx.solve(m, n, rank=rank, rows=rows, objective="traffic")  # type: ignore[arg-type]
    assert solution.objective == solution.lower_bound == least_traffic(m, n, rank, rows)
    shape = solution.shape
    assert traffic(shape.m1, shape.n1, *shape.block, rank, rows)[solution.evaluation] == solution.objective
    assert f"{solution.objective:,} entries (proven optimal" in str(solution)
    plan = kx.plan(nn.Linear(84, 60), rank=3, rows=128, objective="traffic")  # type: ignore[arg-type]
    assert plan.choices[0].shape == kx.solve(60, 84, rank=3, rows=128, objective="traffic").shape  # type: ignore[arg-type]


def test_a_row_can_need_the_rates_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    needing = replace(ROW, rates="forward")
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
