"""Plans: wishes, refusals, errors, JSON, and parameter counts that must come out to the digit."""

from __future__ import annotations

import json

import models
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import brute_force
from torch import nn

import kronfx as kx
from kronfx.clock import rates_here
from kronfx.cost import fastest
from kronfx.planner import PlanOptions, plan_sites
from kronfx.records import EVALUATIONS, Budget, Choice, KroneckerShape, Refusal, Site


def trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("rank", "parameters"), [(1, 262), (2, 458), (4, 850), (6, 1242)])
def test_linear_of_the_paper(rank: int, parameters: int) -> None:
    factored = kx.factorize(nn.Linear(784, 10), block=(5, 28), rank=rank)  # m1, n1 = 2, 28
    assert trainable(factored) == parameters


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("vit_tiny_patch16_224", {1: "0.883", 2: "1.217", 4: "1.884"}),
        ("swin_tiny_patch4_window7_224", {1: "3.531", 2: "5.251", 4: "8.691"}),
    ],
)
def test_vision_transformers_of_the_paper(name: str, counts: dict[int, str]) -> None:
    """Table 3, every linear layer, the head included, at 4x4 blocks: the whole model's trainable parameters."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=100)
    for rank, printed in counts.items():
        factored = kx.factorize(model, block=(4, 4), rank=rank)
        assert f"{trainable(factored) / 1e6:.3f}" == printed
        assert not any(type(module) is nn.Linear for module in factored.modules())


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 6))
def test_the_integer_program_decides(m: int, n: int, rank: int) -> None:
    layer = nn.Linear(n, m, bias=False, device="meta")
    objective, shapes = brute_force(m, n, rank)
    if rank > max(4, int((m * n) ** 0.5)):
        with pytest.raises(kx.KronfxError, match="never above"):
            kx.plan(layer, rank=rank)
        return
    plan = kx.plan(layer, rank=rank)
    if objective >= m * n:
        assert not plan.choices
        assert f"{objective} parameters at best" in plan.refusals[0].reason
        return
    (choice,) = plan.choices
    shape = choice.shape
    assert (shape.m1, shape.n1, shape.m2, shape.n2) in shapes
    assert plan.parameters == objective == trainable(kx.factorize(layer, plan))
    assert choice.evaluation == fastest(shape, rank, 512, rates_here())


def test_wishes_by_name_and_glob() -> None:
    model = models.mlp(64, 32, 32, 16)
    plan = kx.plan(model, rank={"*": 2, "2": 3}, block={"[02]": (4, 4), "0": (8, 8)})
    assert [(c.site.name, c.rank, c.shape.block) for c in plan.choices][:2] == [("0", 2, (8, 8)), ("2", 3, (4, 4))]
    assert plan.choices[2].shape == kx.solve(16, 32, rank=2).shape
    assert [c.site.name for c in kx.plan(model, include="*", exclude=["0", "4"]).choices] == ["2"]
    assert [r.reason for r in kx.plan(model, include="2").refusals] == ["not asked for (include / exclude)"] * 2


def test_a_wish_for_many_refuses_what_cannot_grant_it() -> None:
    plan = kx.plan(models.mlp(64, 32, 10), block=(4, 4))
    assert [c.site.name for c in plan.choices] == ["0"]
    assert plan.refusals[0].reason == "the block 4x4 does not divide it"


def test_full_rank_is_the_shape_of_rank_one() -> None:
    (choice,) = kx.plan(nn.Linear(30, 42), rank="full").choices
    assert choice.shape == kx.solve(42, 30, rank=1).shape
    assert choice.rank == choice.shape.max_rank


def test_evaluation_is_the_cheapest_for_the_expected_rows() -> None:
    seen = {c.evaluation for rows in (1, 4096) for c in kx.plan(models.mlp(64, 512, 64, 60), rank=8, rows=rows).choices}
    assert {"a_first", "b_first"} <= seen


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"include": "fc9"}, r"include names 'fc9'.*nearest: fc"),
        ({"exclude": "nothing*"}, r"exclude names 'nothing\*'"),
        ({"block": {"fc1": (7, 8)}}, r"fc1 \(120x400\): the block 7x8 does not divide it; needed m2 among 1, 2, 3"),
        ({"block": {"fcx": (8, 8)}}, r"block names 'fcx'"),
        ({"block": (0, 4)}, r"block=\(0, 4\); needed a pair"),
        ({"block": 4}, "block=4; needed a pair"),
        ({"block": (4, 4.0)}, r"block=\(4, 4.0\)"),
        ({"rank": 0}, "rank=0; needed a positive integer or 'full'"),
        ({"rank": True}, "rank=True"),
        ({"rank": "half"}, "rank='half'"),
        ({"rank": 5, "block": (2, 2)}, r"fc1 \(120x400\): rank 5 .*; needed a rank of at most min\(m1 n1, m2 n2\) = 4"),
        ({"rank": {"fc3": 400}}, r"fc3 \(10x84\): rank 400"),
        ({"rank": 1000}, "rank 1000; needed a rank of at most"),
        ({"rows": 0}, "rows=0"),
        ({"overrides": {"fc9": {"rank": 2}}}, "overrides names 'fc9'.*nearest: fc"),
        ({"overrides": {"fc1": {"colour": 2}}}, "overrides has the option 'colour'; needed rank, block, min_block"),
        ({"overrides": 3}, "overrides=3; needed a mapping"),
        ({"overrides": {"fc1": {"rank": 0}}}, "rank=0"),
        (
            {"overrides": {"fc1": {"min_block": 16, "max_block": 8}}},
            r"fc1 .*: m2 is to be at least 16 and at most 8",
        ),
        ({"block": (8, 8), "multiple_of": 3}, r"\(.*\): m2 is to be 8 and a multiple of 3: no block can"),
        ({"overrides": {"fc1": {"min_block": 500}}}, r"fc1 \(120x400\): no m2 that divides 120 is at least 500"),
        ({"min_block": "wide"}, "min_block='wide'; needed a positive integer or a pair"),
        ({"padding": -1}, "padding=-1; needed a share from 0 to 1"),
        ({"objective": "speed"}, "objective='speed'; needed one of"),
        ({"objective": "latency"}, "objective='latency' without rates; needed the rates of this machine"),
        ({"overrides": {"fc1": {"objective": "latency"}}}, "objective='latency' without rates"),
        ({"rates": 3}, "rates of type int; needed kronfx Rates"),
    ],
)
def test_bad_wishes_are_sentences(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(kx.KronfxError, match=f"^plan: .*{sentence}"):
        kx.plan(models.lenet5(), **options)  # type: ignore[arg-type]


def test_a_plan_prints() -> None:
    text = str(kx.plan(models.lenet5(), rank=5, block={"fc1": (8, 16), "fc2": (4, 8), "fc3": (2, 4)}, include="fc*"))
    assert "3 layers, 58,920 -> 5,610 parameters (9.52%)" in text
    assert "15x25" in text
    assert "left alone: 2" in text
    assert str(kx.plan(nn.ReLU())) == "plan: no linear map is rewritten"


def test_include_and_exclude_by_type() -> None:
    model = models.lenet5()
    assert [c.site.name for c in kx.plan(model, rank=2, include=nn.Conv2d).choices] == ["0", "3"]
    assert [c.site.name for c in kx.plan(model, rank=2, exclude=[nn.Conv2d, "fc1"]).choices] == ["fc2", "fc3"]
    with pytest.raises(kx.KronfxError, match=r"include names GRU.*\(here: Conv2d, Linear\)"):
        kx.plan(model, include=nn.GRU)


def test_overrides_reach_layers_by_name_and_glob() -> None:
    plan = kx.plan(
        models.lenet5(),
        rank=2,
        overrides={"fc*": {"rank": 3, "multiple_of": 2}, "fc2": {"rank": 1, "objective": "flops"}},
    )
    chosen = {c.site.name: c for c in plan.choices}
    assert {name: c.rank for name, c in chosen.items()} == {"0": 2, "3": 2, "fc1": 3, "fc2": 1, "fc3": 3}
    assert chosen["fc1"].shape == kx.solve(120, 400, rank=3, multiple_of=2).shape
    assert chosen["fc2"].shape == kx.solve(84, 120, rank=1, multiple_of=2, objective="flops").shape


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"block": (2, 2), "rank": 4}, "unprofitable: 96 parameters, the dense weight has 64"),
        ({"block": (4, 2), "rank": 3}, "unprofitable: 64 multiply-adds a row, dense takes 64"),
    ],
)
def test_what_would_lose_is_refused_with_both_numbers(options: dict[str, object], reason: str) -> None:
    site = Site("plain", "Linear", 8, 8)
    plan = plan_sites([site], [], PlanOptions(skip_unprofitable=True, **options))  # type: ignore[arg-type]
    assert [refusal.reason for refusal in plan.refusals] == [reason]
    assert plan_sites([site], [], PlanOptions(**options)).choices  # type: ignore[arg-type]


def test_rates_decide_evaluation_shape_and_profit() -> None:
    model = models.mlp(64, 512, 64)
    slow_entries = kx.Rates(1, 10_000_000, 0)
    plan = kx.plan(model, rank=8, rates=slow_entries, rows=4096)
    assert {c.evaluation for c in plan.choices} == {"materialize"}  # no intermediate
    best = kx.plan(model, rank=2, objective="latency", rates=slow_entries, rows=4096)
    assert best.choices[0].shape == kx.solve(512, 64, rank=2, objective="latency", rates=slow_entries, rows=4096).shape
    refused = kx.plan(model, rank=8, rates=slow_entries, rows=4096, skip_unprofitable=True).refusals
    assert [r.reason.partition(":")[0] for r in refused] == ["unprofitable"] * 2
    assert "us a step at these rates, dense takes" in refused[0].reason


def test_calibrated_rates_are_three_numbers_of_this_machine() -> None:
    rates = kx.calibrate(rows=8)
    assert max(rates.multiply_add, rates.entry, rates.product) > 0
    assert "8 rows, float32, cpu" in str(rates)
    assert kx.Rates.from_json(rates.to_json()) == rates


def test_plans_are_compared() -> None:
    model = models.lenet5()
    a, b = kx.plan(model, rank=2), kx.plan(model, rank={"*": 2, "fc1": 4}, exclude="0")
    assert not a - a
    assert str(a - a) == "the plans do the same"
    changes = {change.site: change for change in (b - a).changes}
    assert set(changes) == {"0", "fc1"}
    assert (changes["fc1"].parameters_before, changes["fc1"].parameters_after) == tuple(
        next(c.parameters for c in plan.choices if c.site.name == "fc1") for plan in (a, b)
    )
    assert changes["0"].after == "dense: not asked for (include / exclude)"
    assert "2 layers differ" in str(b - a)


@pytest.mark.parametrize("exclude", [None, "head", "first"])
def test_shared_weights_are_counted_once(exclude: str | None) -> None:
    """Two layers with one weight: it goes when both are rewritten, and stays while one is not."""
    model = nn.ModuleDict({"first": nn.Linear(24, 24, bias=False), "head": nn.Linear(24, 24)})
    model["head"].weight = model["first"].weight
    plan = kx.plan(model, rank=1, untie=True, exclude=exclude)
    created = kx.factorize(model, plan)
    assert plan.model_parameters == 24 * 24 + 24
    assert plan.planned_parameters == sum(p.numel() for p in created.parameters())


def test_a_tied_head_leaves_its_embedding() -> None:
    model = models.Tied()
    for plan in (kx.plan(model, rank=1, untie=True), kx.plan(model, max_params=0.99, untie=True)):
        created = kx.factorize(model, plan)
        assert plan.planned_parameters == sum(p.numel() for p in created.parameters())


def test_a_plan_is_edited_as_a_value() -> None:
    plan = kx.plan(models.lenet5(), rank=2, include="fc*")
    assert [c.site.name for c in plan.without("fc1").choices] == ["fc2", "fc3"]
    assert [c.site.name for c in plan.only("fc1").choices] == ["fc1"]
    with pytest.raises(kx.KronfxError, match="no site of this plan is called 'fc7'"):
        plan.only("fc7")
    edited = plan.edited("fc2", rank=5, evaluation="materialize")
    assert [c.rank for c in edited.choices] == [2, 5, 2]
    assert edited.planned_parameters == sum(p.numel() for p in kx.factorize(models.lenet5(), edited).parameters())
    with pytest.raises(kx.KronfxError, match="plan: fc2: an edit of colour; needed rank, shape, evaluation or"):
        plan.edited("fc2", colour="red")
    with pytest.raises(kx.KronfxError, match="rank 5000 with the blocks"):
        kx.factorize(models.lenet5(), plan.edited("fc1", rank=5000))


sites = st.builds(Site, st.text(), st.text(), st.integers(1, 9), st.integers(1, 9), st.just("float32"))
shapes = st.builds(KroneckerShape, *[st.integers(1, 9)] * 4)
choices = st.builds(Choice, sites, shapes, st.integers(1, 9), st.sampled_from(EVALUATIONS), st.none() | st.floats(0, 1))
refusals = st.builds(Refusal, st.text(), st.text(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.text())


@given(st.lists(choices, max_size=3), st.lists(refusals, max_size=2))
def test_json_gives_the_plan_back(chosen: list[Choice], refused: list[Refusal]) -> None:
    budget = Budget(10, None, 0.5, 0.75, 3, "surrogate", 1e-9, 0.0)
    for plan in (kx.Plan(tuple(chosen), tuple(refused)), kx.Plan(tuple(chosen), (), 7, 100, budget)):
        assert kx.Plan.from_json(plan.to_json()) == plan


def test_damaged_json_is_a_sentence() -> None:
    good = json.loads(kx.plan(models.lenet5()).to_json())
    damaged = [
        "{", "[]", "{}", '{"format": "kronfx-plan", "version": 99}', json.dumps({**good, "choices": [{}]}),
        json.dumps({**good, "choices": [{**good["choices"][0], "rank": "4"}]}),
        json.dumps({**good, "choices": [{**good["choices"][0], "evaluation": "fast"}]}),
        json.dumps({**good, "choices": [{**good["choices"][0], "shape": {"m1": 1}}]}),
        json.dumps({**good, "refusals": None}), json.dumps({**good, "budget": {"value": 1}}),
        json.dumps({**good, "choices": [{**good["choices"][0], "energy": "most"}]}),
    ]  # fmt: skip
    for text in damaged:
        with pytest.raises(kx.KronfxError, match="^plan: .*; needed the text that Plan.to_json wrote"):
            kx.Plan.from_json(text)
