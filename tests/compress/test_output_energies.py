"""``kronfx.plan(batches=)``: budgets that are spent on what the maps' outputs lose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import Half, attention, convolutions, mlp
from torch import Tensor, nn

import kronfx as kx
from kronfx import kron
from kronfx.compress.factors import fitted_factors
from kronfx.records import KroneckerShape


def correlated(n: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(n // 4, n, generator=generator)
    noise = 0.1 * torch.randn(count, 80, n, generator=generator)
    return list(torch.randn(count, 80, n // 4, generator=generator) @ mix + noise + 1)


SPANNING = st.builds(KroneckerShape, st.integers(1, 5), st.just(1), st.integers(1, 3), st.integers(3, 8))


@given(shape=SPANNING, surplus=st.integers(0, 2), seed=st.integers(0, 9))
def test_where_a_block_spans_all_inputs_the_fit_is_the_best_there_is(
    shape: KroneckerShape, surplus: int, seed: int
) -> None:
    """Eckart and Young of the outputs, which such factors can reach: those of any combination of the inputs."""
    generator, n = torch.Generator().manual_seed(seed), shape.n - surplus
    W, X = (torch.randn(rows, n, generator=generator, dtype=torch.float64) for rows in (shape.m, 2 * n + 3))
    singular = torch.linalg.svdvals((X @ W.mT).mT.reshape(shape.m1, -1))
    for rank in range(1, shape.max_rank + 1):
        fitted = kron.materialize(*fitted_factors(W, X.mT @ X, shape, rank))[:, :n]
        error = float((X @ (W - fitted).mT).square().sum())
        assert error == pytest.approx(float(singular[rank:].square().sum()), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("block", [None, (4, 4), (2, 12)])
def test_what_a_plan_says_is_kept_is_kept(block: Any) -> None:
    torch.manual_seed(0)
    dense, batches = mlp(24, 36, 24), correlated(24)
    plan = kx.plan(dense, block=block, max_params=0.6, batches=batches, zero_start=None)
    assert plan.budget is not None
    assert plan.budget.measure == "output energy"
    factors = kx.factors(kx.factorize(dense, plan, init="calibrated", batches=batches))
    x = torch.cat(batches)
    with torch.no_grad():
        inputs = {"0": x, "2": dense[1](dense[0](x))}
        for choice in plan.choices:
            W = dense.get_parameter(f"{choice.site.name}.weight")
            y, lost = (F.linear(inputs[choice.site.name], M) for M in (W, W - factors[choice.site.name].materialize()))
            kept = 1 - float((lost - lost.mean(0)).square().sum() / (y - y.mean(0)).square().sum())
            assert choice.energy is not None
            assert choice.energy - 0.03 <= kept <= choice.energy + 0.2  # drawn between fitted ranks, it is a bound


@pytest.mark.parametrize(
    ("model", "batch"), [(attention, lambda: torch.randn(8, 5, 16)), (convolutions, lambda: torch.randn(4, 3, 5, 5))]
)
def test_spellings(model: Any, batch: Any) -> None:
    torch.manual_seed(0)
    dense, batches = model().eval(), [batch() for _ in range(3)]
    plan = kx.plan(dense, max_params=0.6, batches=batches, zero_start=None)
    assert all(choice.energy is not None and 0 < choice.energy <= 1 for choice in plan.choices)
    assert kx.factorize(dense, plan, init="calibrated", batches=batches)(batches[0]).isfinite().all()


def test_a_budget_goes_where_the_outputs_are() -> None:
    """Two maps alike, of which one sees two directions only: the other gets the parameters. Over four draws."""
    errors, first = {"sees": 0.0, "blind": 0.0}, {"sees": 0, "blind": 0}
    for seed in range(4):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 24), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24))
        batches = [torch.randn(100, 2) for _ in range(3)]
        for name, wishes in {"sees": {"batches": batches}, "blind": {"energy": True}}.items():
            plan = kx.plan(model, include=["1", "3"], max_params=0.5, zero_start=None, **wishes)
            fitted = kx.factorize(model, plan, init="calibrated", batches=batches)
            with torch.no_grad():
                errors[name] += float(sum((fitted(x) - model(x)).square().mean() for x in batches))
            first[name] += plan.choices[0].parameters
    assert errors["sees"] < 0.7 * errors["blind"]
    assert first["sees"] < 0.8 * first["blind"]


def test_the_one_call_plans_with_the_batches_too() -> None:
    torch.manual_seed(0)
    model, batches = mlp(24, 36, 20), correlated(24)
    plan = kx.plan(model, max_params=0.5, batches=batches, zero_start=None)
    fitted = kx.factorize(model, max_params=0.5, init="calibrated", batches=iter(batches))
    assert {name: one.shape for name, one in kx.factors(fitted).items()} == {c.site.name: c.shape for c in plan.choices}


def test_a_map_that_no_batch_reaches_is_judged_by_its_weight() -> None:
    model = Half()
    seen, blind = (
        {c.site.name: c.energy for c in kx.plan(model, block=(2, 2), rank=1, **options).choices}
        for options in ({"batches": correlated(8)}, {"energy": True})
    )
    assert seen["unused"] == blind["unused"]
    assert seen["used"] != blind["used"]


@pytest.mark.parametrize(
    ("batches", "sentence"),
    [
        ([], "no batch; needed calibration data"),
        ([torch.ones(3, 5)], "a batch that the model does not take"),
        ([torch.full((3, 24), torch.nan)], r"0 \(36x24\): NaN or infinite inputs"),
    ],
)
def test_a_sentence(batches: list[Tensor], sentence: str) -> None:
    with pytest.raises(kx.KronfxError, match=f"^plan: {sentence}"):
        kx.plan(mlp(24, 36, 20), batches=batches)
