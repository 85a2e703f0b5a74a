"""Candidates of several block shapes at one site: their weights add up, wherever the layer goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import lenet5, mlp
from oracles import dense, summed
from torch import nn

import kronfx as kx
from kronfx.errors import PlanError
from kronfx.layers import KroneckerCandidates, candidates_of, folded_layers
from kronfx.train import PatternSelection
from kronfx.train.patterns.contest import squared_norm

EXACT = 1e-10  # relative, float64: sums of at most some hundred products
CLOSE = 1e-5  # float32, the same sums


def test_candidates_add_up_and_start_at_the_variance_of_the_weight() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 64)
    layer = kx.factorize(plain, rank=3, block=[(2, 2), (4, 8), (16, 4)])
    assert isinstance(layer, KroneckerCandidates)
    x, W = torch.randn(5, 96), summed(candidates_of(layer))
    torch.testing.assert_close(layer.weight, W, rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(layer(x), x @ W.T + plain.bias, rtol=CLOSE, atol=CLOSE)
    assert (layer.in_features, layer.out_features) == (96, 64)
    # Three sums of 3 products of normals each, 6144 entries that share factors: within a third of the deviation.
    assert float(W.std()) == pytest.approx(float(plain.weight.detach().std()), rel=1 / 3)


def test_nearest_candidates_of_full_rank_add_up_to_the_weight() -> None:
    torch.manual_seed(0)
    model = mlp(12, 8)
    nearest = kx.factorize(model, init="nearest", rank="full", block=[(2, 2), (4, 3)])
    torch.testing.assert_close(nearest[0].weight, model[0].weight, rtol=CLOSE, atol=CLOSE)


def test_candidates_fold_export_save_and_count_as_their_sum(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"fc1": [(8, 16), (4, 8)], "fc2": [(4, 8), (6, 4)], "3": [(4, 1), (8, 2)]}
    model = kx.factorize(lenet5(), rank=2, block=blocks, include=list(blocks)).eval()
    x = torch.randn(2, 1, 28, 28)
    folded = kx.fold(model)
    torch.testing.assert_close(folded(x), model(x), rtol=CLOSE, atol=CLOSE)
    assert [folded_layers(folded)[name].shape.block for name in ("fc1", "fc2")] == [(4, 8), (2, 4)]
    torch.testing.assert_close(folded.fc2.weight, summed(candidates_of(model.fc2)), rtol=CLOSE, atol=CLOSE)
    assert list(kx.factors(model)) == ["3.0", "3.1", "fc1.0", "fc1.1", "fc2.0", "fc2.1"]
    report = kx.export_onnx(model, tmp_path / "model.onnx", x, lowering="factors")
    assert [layer.lowering for layer in report.layers if layer.site == "fc1"] == ["dense"]
    kx.save(model, tmp_path / "saved")
    assert torch.equal(kx.load(lenet5(), tmp_path / "saved").eval()(x), model(x))
    traced = kx.graph(model)
    torch.testing.assert_close(kx.fold(traced)(x), model(x), rtol=CLOSE, atol=CLOSE)


def test_a_site_is_left_alone_unless_every_candidate_fits() -> None:
    plan = kx.plan(mlp(16, 12, 10), rank=1, block=[(2, 2), (4, 4)])
    assert [(c.site.name, c.shape.block) for c in plan.choices] == [("0", (2, 2)), ("0", (4, 4))]
    assert [r.site for r in plan.refusals] == ["2"]
    assert plan.dense_parameters == 16 * 12
    assert kx.plan(mlp(4, 4), block=[2, 2], rank=1).choices == kx.plan(mlp(4, 4), block=(2, 2), rank=1).choices
    assert kx.Plan.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match="does not divide"):
        kx.plan(mlp(16, 12, 10), rank=1, block={"2": [(2, 2), (4, 4)]})


def test_candidates_come_by_overrides_too_and_not_under_a_budget() -> None:
    blocks = [(2, 2), (4, 4), (2, 2)]  # the third is the first: another layer's may differ there
    plan = kx.plan(mlp(16, 12, 8), rank=1, block=(2, 4), overrides={"0": {"block": blocks}})
    assert [c.shape.block for c in plan.choices] == [*blocks, (2, 4)]
    model = kx.factorize(mlp(16, 12, 8), rank=1, block={"0": blocks, "2": [(2, 2), (4, 4), (8, 4)]})
    assert list(PatternSelection(model).norms()) == ["2x2", "4x4", "0 2x2, 2 8x4"]
    with pytest.raises(PlanError, match=r"0 \(12x16\): 3 candidate blocks under a budget"):
        kx.plan(mlp(16, 12, 8), block=blocks, max_params=0.5)
    with pytest.raises(PlanError, match="block="):
        kx.plan(mlp(16, 12), block=[(2, 2), (4, 0)])


@pytest.mark.parametrize("sizes", [(13, 11), (16, 11), (13, 16)])
def test_rows_and_columns_beyond_the_weight_cost_nothing(sizes: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = kx.factorize(nn.Linear(*sizes, dtype=torch.float64), rank=2, block=[(2, 2), (4, 4)], padding=1.0)
    for candidate in candidates_of(model):
        W = dense(candidate.S.detach(), candidate.A.detach(), candidate.B.detach())[: sizes[1], : sizes[0]]
        assert float(squared_norm(candidate)) == pytest.approx(float(W.square().sum()), rel=EXACT)
