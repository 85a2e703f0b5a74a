"""Every model of the zoo through every promise; ``python tests/zoo/table.py`` prints the same as one table."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

import pytest
from models import mlp
from zoo import FAMILIES, entries, installed
from zoo.check import RANK, Column, Row, check
from zoo.coverage import cover, linear_maps
from zoo.entry import Entry

import kronfx as kx


def _cases() -> list[Any]:
    """The models of each family that is installed, and one skipped case for each that is not."""
    cases: list[Any] = []
    for family in FAMILIES:
        if installed(family):
            cases += [pytest.param(entry, id=entry.name) for entry in entries(family)]
        else:
            cases.append(pytest.param(None, id=family, marks=pytest.mark.skip(reason=f"{family} is not installed")))
    return cases


@cache
def _row(entry: Entry) -> Row:
    return check(entry)


@pytest.mark.parametrize("column", get_args(Column))
@pytest.mark.parametrize("entry", _cases(), scope="module")
@pytest.mark.filterwarnings("ignore")
def test_zoo(entry: Entry, column: Column) -> None:
    outcome = getattr(_row(entry), column)
    if outcome.verdict == "open":
        pytest.skip(outcome.text)
    assert outcome.verdict == "holds", outcome.text


def test_the_harness_sees_a_layer_that_was_left_alone() -> None:
    dense = mlp(32, 64, 16)
    plan = kx.plan(dense, rank="full", exclude="2")
    coverage = cover(dense, kx.factorize(dense, plan), plan)
    assert coverage.missed == ("2.weight",)
    assert coverage.share == 32 * 64 / (32 * 64 + 64 * 16)
    assert coverage.silent == ()


def test_the_harness_sees_a_weight_without_a_reason() -> None:
    dense = mlp(32, 64, 16)
    plan = kx.Plan(kx.plan(dense, rank="full").choices[:1], ())
    assert cover(dense, kx.factorize(dense, plan), plan).silent == ("2.weight",)


def test_the_harness_believes_no_plan_that_was_not_carried_out() -> None:
    dense = mlp(32, 64, 16)
    plan = kx.plan(dense, rank="full")
    assert set(cover(dense, dense, plan).missed) == set(linear_maps(dense)) == {"0.weight", "2.weight"}


@pytest.mark.parametrize("entry", _cases(), scope="module")
@pytest.mark.filterwarnings("ignore")
def test_a_plan_counts_what_factorize_creates(entry: Entry) -> None:
    """The parameters of the whole rewritten model, to the digit: at one rank and within a budget."""
    dense = entry.model()
    for plan in (kx.plan(dense, rank=RANK, untie=True), kx.plan(dense, max_params=0.97)):
        assert plan.model_parameters == sum(p.numel() for p in dense.parameters())
        assert plan.planned_parameters == sum(p.numel() for p in kx.factorize(dense, plan).parameters())
