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
from kronfx.cost import cheapest
from kronfx.records import EVALUATIONS, Choice, KroneckerShape, Refusal, Site


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
    assert choice.evaluation == cheapest(shape, rank, 512)


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


def test_a_plan_is_edited_as_a_value() -> None:
    plan = kx.plan(models.lenet5(), rank=2, include="fc*")
    assert [c.site.name for c in plan.without("fc1").choices] == ["fc2", "fc3"]
    assert [c.site.name for c in plan.only("fc1").choices] == ["fc1"]
    with pytest.raises(kx.KronfxError, match="no site of this plan is called 'fc7'"):
        plan.only("fc7")


sites = st.builds(Site, st.text(), st.text(), st.integers(1, 9), st.integers(1, 9), st.just("float32"))
shapes = st.builds(KroneckerShape, *[st.integers(1, 9)] * 4)
choices = st.builds(Choice, sites, shapes, st.integers(1, 9), st.sampled_from(EVALUATIONS))
refusals = st.builds(Refusal, st.text(), st.text(), st.tuples(st.integers(1, 9), st.integers(1, 9)), st.text())


@given(st.lists(choices, max_size=3), st.lists(refusals, max_size=2))
def test_json_gives_the_plan_back(chosen: list[Choice], refused: list[Refusal]) -> None:
    plan = kx.Plan(tuple(chosen), tuple(refused))
    assert kx.Plan.from_json(plan.to_json()) == plan


def test_damaged_json_is_a_sentence() -> None:
    good = json.loads(kx.plan(models.lenet5()).to_json())
    damaged = [
        "{", "[]", "{}", '{"format": "kronfx-plan", "version": 99}', json.dumps({**good, "choices": [{}]}),
        json.dumps({**good, "choices": [{**good["choices"][0], "rank": "4"}]}),
        json.dumps({**good, "choices": [{**good["choices"][0], "evaluation": "fast"}]}),
        json.dumps({**good, "choices": [{**good["choices"][0], "shape": {"m1": 1}}]}),
        json.dumps({**good, "refusals": None}),
    ]  # fmt: skip
    for text in damaged:
        with pytest.raises(kx.KronfxError, match="^plan: .*; needed the text that Plan.to_json wrote"):
            kx.Plan.from_json(text)
