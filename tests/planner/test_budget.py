"""Whole-model budgets: equal to trying everything on small models, to the digit on real ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import models
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import rearrangement
from torch import nn

import kronfx as kx
from kronfx.records import Choice

ROWS = 16
Option = tuple[int, int, float]  # parameters, multiply-adds, log of what is kept


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _divisors(k: int) -> list[int]:
    return [d for d in range(1, k + 1) if k % d == 0]


def _ops(m1: int, n1: int, m2: int, n2: int, r: int) -> int:
    return min(ROWS * r * m1 * n2 * (n1 + m2), ROWS * r * n1 * m2 * (n2 + m1), (ROWS + r) * m1 * m2 * n1 * n2)


def _preferred(m: int, n: int) -> dict[int, tuple[int, int, int, int]]:
    """For each ``m1 n1`` the shape of the greatest matrix rank, then the fewest multiply-adds: all candidates."""
    best: dict[int, tuple[tuple[int, ...], tuple[int, int, int, int]]] = {}
    for m1, n1 in itertools.product(_divisors(m), _divisors(n)):
        block = m1, n1, m // m1, n // n1
        key = -min(m, n, min(m1, n1) * min(m // m1, n // n1)), _ops(*block, 1)
        if m1 * n1 not in best or key < best[m1 * n1][0]:
            best[m1 * n1] = key, block
    return {t: block for t, (_, block) in best.items()}


def _options(m: int, n: int) -> Iterator[Option]:
    yield m * n, ROWS * m * n, 0.0
    for m1, n1, m2, n2 in _preferred(m, n).values():
        most = min(m1 * n1, m2 * n2)
        for r in range(1, most + 1):
            parameters = (1 + r) * m1 * n1 + r * m2 * n2
            yield parameters, _ops(m1, n1, m2, n2, r), math.log(math.log(1 + r) / math.log(1 + most))


def _exhaustive(layers: list[list[Option]], limits: tuple[float, float]) -> float:
    """The best geometric mean over every combination, -inf where none fits."""
    best = -math.inf
    for combination in itertools.product(*layers):
        parameters, ops, value = (sum(one) for one in zip(*combination))
        if parameters <= limits[0] and ops <= limits[1]:
            best = max(best, value)
    return math.exp(best / len(layers))


SIZE = st.sampled_from((2, 3, 4, 6, 8, 9))


@pytest.mark.filterwarnings("ignore:kronfx.factorize rewrote nothing")
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SIZE, SIZE), min_size=1, max_size=3), st.sampled_from((0.3, 0.5, 0.8, 1.0, None)),
    st.sampled_from((0.4, 0.7, 1.0, None)),
)  # fmt: skip
def test_small_models_equal_exhaustive_search(
    dims: list[tuple[int, int]], share: float | None, ops_share: float | None
) -> None:
    if share is None and ops_share is None:
        return
    model = nn.ModuleList(nn.Linear(n, m, bias=False) for m, n in dims)
    dense = sum(m * n for m, n in dims)
    limits = (
        math.inf if share is None else int(share * dense),
        math.inf if ops_share is None else int(ops_share * ROWS * dense),
    )
    best = _exhaustive([list(_options(m, n)) for m, n in dims], limits)
    wishes = {"max_params": share, "max_flops": ops_share}
    if best == 0:
        with pytest.raises(kx.KronfxError, match="^plan: .* is out of reach"):
            kx.plan(model, rows=ROWS, **wishes)  # type: ignore[arg-type]
        return
    plan = kx.plan(model, rows=ROWS, **wishes)  # type: ignore[arg-type]
    assert plan.budget is not None
    assert plan.budget.value == pytest.approx(best, rel=1e-5)  # HiGHS stops within 1e-6 of the logarithm
    assert plan.budget.bound >= plan.budget.value * (1 - 1e-9)
    assert plan.planned_parameters <= limits[0]
    kept = sum(_value(choice) for choice in plan.choices)
    assert math.exp(kept / len(dims)) == pytest.approx(plan.budget.value)
    assert _count(kx.factorize(model, plan)) == plan.planned_parameters
    left = sum(m * n for m, n in dims) - plan.dense_parameters
    assert plan.multiply_adds + ROWS * left <= limits[1]


def _value(choice: Choice) -> float:
    return math.log(math.log(1 + choice.rank) / math.log(1 + choice.shape.max_rank))


def test_energy_budgets_equal_exhaustive_search() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8, bias=False), nn.ReLU(), nn.Linear(8, 6, bias=False))
    layers = []
    for layer in (model[0], model[2]):
        m, n = layer.weight.shape
        solutions = [kx.solve(m, n, rank=r, runners_up=1, rows=ROWS) for r in (1, 2, 4, 8)]
        shapes = {s for one in solutions for s in (one.shape, *(other.shape for other in one.runners_up))}
        options = [(m * n, 0, 0.0)]
        for shape in shapes:
            singular = np.linalg.svd(rearrangement(layer.weight, shape.m2, shape.n2), compute_uv=False) ** 2
            for r in range(1, shape.max_rank + 1):
                options.append((shape.parameters(r), 0, math.log(min(1.0, singular[:r].sum() / singular.sum()))))
        layers.append(options)
    for share in (0.4, 0.6, 0.9):
        plan = kx.plan(model, rows=ROWS, max_params=share, energy=True)
        best = _exhaustive(layers, (int(share * _count(model)), math.inf))
        assert plan.budget is not None
        assert plan.budget.value == pytest.approx(best, rel=1e-5)
        assert plan.budget.measure == "energy"


def test_energy_is_what_the_nearest_factors_keep() -> None:
    torch.manual_seed(0)
    model = models.lenet5()
    plan = kx.plan(model, rank=3, energy=True)
    factored = kx.factorize(model, plan, init="nearest")
    dense = {name.removesuffix(".weight"): p for name, p in model.named_parameters()}
    for choice in plan.choices:
        W = dense[choice.site.name].detach().flatten(1)
        error = kx.factors(factored)[choice.site.name].materialize().detach() - W
        kept = 1 - float(error.square().sum() / W.square().sum())
        assert choice.energy == pytest.approx(kept, abs=1e-5)  # float32 factors
    assert "energy" in str(plan)


def test_equal_layers_share_candidates_and_large_models_are_solved() -> None:
    layers = [nn.Linear(768, 3072, device="meta") if i % 2 else nn.Linear(3072, 768, device="meta") for i in range(100)]
    model = nn.Sequential(*layers)
    for wishes in ({"max_params": 0.2}, {"max_flops": 0.15}, {"max_params": 0.2, "max_flops": 0.1}):
        plan = kx.plan(model, **wishes)
        assert plan.budget is not None
        assert plan.budget.gap < 1e-3
        assert plan.planned_parameters <= (wishes.get("max_params", 1.0)) * _count(model)
        assert plan.planned_parameters == _count(kx.factorize(model, plan))


def test_a_greater_budget_keeps_more_and_its_price_falls() -> None:
    budgets = [kx.plan(models.lenet5(), max_params=share).budget for share in (0.06, 0.1, 0.2, 0.4)]
    values = [budget.value for budget in budgets if budget]
    prices = [budget.parameter_price for budget in budgets if budget]
    assert values == sorted(values)
    assert prices == sorted(prices, reverse=True)
    assert "1,000 more parameters would raise it by" in str(budgets[0])


def test_a_fixed_rank_or_block_stays_fixed() -> None:
    model = models.lenet5()
    plan = kx.plan(model, max_params=0.3, overrides={"fc1": {"rank": 5}, "fc2": {"block": (12, 12)}}, exclude=nn.Conv2d)
    chosen = {choice.site.name: choice for choice in plan.choices}
    assert chosen["fc1"].rank == 5
    assert chosen["fc2"].shape.block == (12, 12)
    assert plan.planned_parameters <= 0.3 * _count(model)


def test_padding_is_among_the_candidates() -> None:
    model = nn.Linear(64, 1009, bias=False, device="meta")
    plain, padded = (kx.plan(model, max_params=0.1, padding=p) for p in (0.0, 0.02))
    assert padded.budget is not None
    assert plain.budget is not None
    assert padded.budget.value > plain.budget.value
    assert any(padded.choices[0].padding)


@pytest.mark.parametrize(
    ("wishes", "sentence"),
    [
        (
            {"max_params": 1000},
            r"max_params=1,000 is out of reach: 1,000 parameters of 61,706; 236 are not in linear maps that are "
            r"planned, and the largest in the way are fc1 \(120x400\) with 620, .*; needed at least 1,398 \(2.27%\)",
        ),
        ({"max_params": 0.5, "exclude": "fc1"}, r"fc1 \(120x400\), not planned with 48,000"),
        ({"max_flops": 10}, "max_flops=10 is out of reach: 10 multiply-adds of 31,472,640"),
        ({"max_params": 0.0}, r"max_params=0.0; needed a ratio in \(0, 1\] as a float, or a count"),
        ({"max_params": 1.5}, "max_params=1.5"),
        ({"max_flops": True}, "max_flops=True"),
        ({"max_params": 0.023, "max_flops": 0.0682}, "both budgets at once is out of reach"),
    ],
)
def test_impossible_budgets_are_sentences(wishes: dict[str, object], sentence: str) -> None:
    with pytest.raises(kx.KronfxError, match=f"^plan: .*{sentence}"):
        kx.plan(models.lenet5(), **wishes)  # type: ignore[arg-type]


def test_energy_of_what_has_none_is_a_sentence() -> None:
    with torch.device("meta"):
        on_meta = models.lenet5()
    with pytest.raises(kx.KronfxError, match=r"^plan: 0 \(6x25\): a weight on the meta device"):
        kx.plan(on_meta, energy=True)
    model = models.lenet5()
    with torch.no_grad():
        model.fc2.weight[0, 0] = float("nan")
    with pytest.raises(kx.KronfxError, match=r"^plan: fc2 \(84x120\): NaN or infinite weights"):
        kx.plan(model, energy=True)
    assert kx.plan(model, max_params=0.2).choices  # no value is read unless energy is asked for
