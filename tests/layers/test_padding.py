"""Layers whose blocks reach beyond them: what is sliced off never shows."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import models
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import kronfx as kx
from kronfx.cost import cheapest
from kronfx.layers import KroneckerLinear, candidates_of, folded_layers
from kronfx.records import EVALUATIONS, Choice, Evaluation, KroneckerShape, Site


def padded(m: int, n: int, block: tuple[int, int], rank: int, evaluation: Evaluation) -> KroneckerLinear:
    """A layer of ``m x n`` on a grid of whole blocks, some of them exactly zero, in float64."""
    shape = KroneckerShape(-(-m // block[0]), -(-n // block[1]), *block)
    layer = KroneckerLinear(shape, rank, evaluation, dtype=torch.float64, features=(m, n))
    with torch.no_grad():
        layer.S[torch.rand_like(layer.S) < 0.3] = 0
    return layer


def dense_oracle(layer: KroneckerLinear) -> Tensor:
    """``W [m, n]`` entry by entry, from the definition."""
    S, A, B = (factor.detach() for factor in (layer.S, layer.A, layer.B))
    _, m2, n2 = B.shape
    rows, columns = torch.arange(layer.out_features), torch.arange(layer.in_features)
    outer, inner = (rows // m2, columns // n2), (rows % m2, columns % n2)
    coefficients = (S * A)[:, outer[0]][:, :, outer[1]]
    return (coefficients * B[:, inner[0]][:, :, inner[1]]).sum(0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 13), st.integers(1, 13), st.integers(1, 6), st.integers(1, 6), st.integers(1, 3),
    st.sampled_from(EVALUATIONS),
)  # fmt: skip
def test_every_evaluation_computes_the_sliced_product(
    m: int, n: int, m2: int, n2: int, rank: int, evaluation: Evaluation
) -> None:
    layer = padded(m, n, (m2, n2), rank, evaluation)
    W, x = dense_oracle(layer), torch.randn(4, n, dtype=torch.float64)
    assert layer.weight.shape == (m, n) == (layer.out_features, layer.in_features)
    torch.testing.assert_close(layer.weight.detach(), W)  # float64: 1e-7, products of three numbers
    torch.testing.assert_close(layer(x), x @ W.T + layer.bias)
    grid = layer.shape
    empty = sum(
        not W[p * m2 : (p + 1) * m2, j * n2 : (j + 1) * n2].any() for p in range(grid.m1) for j in range(grid.n1)
    )
    assert (layer.zero_blocks(), layer.blocks) == (empty, grid.blocks)


def plan_of(model: nn.Module, block: tuple[int, int] = (8, 4), rank: int = 3) -> kx.Plan:
    plan = kx.plan(model, block=block, rank=rank, padding=1.0)
    assert any(any(choice.padding) for choice in plan.choices)
    return plan


def test_the_block_that_does_not_divide_is_padded_up() -> None:
    plan = plan_of(models.Odd())
    assert [(c.site.m, c.site.n, str(c.shape)) for c in plan.choices] == [
        (53, 37, "7x10 of 8x4"), (45, 53, "6x14 of 8x4"), (11, 45, "2x12 of 8x4"),
    ]  # fmt: skip
    assert plan.parameters == sum((1 + 3) * p * j + 3 * 32 for p, j in ((7, 10), (6, 14), (2, 12)))
    assert "53x37 in 56x40" in str(plan)
    assert kx.Plan.from_json(plan.to_json()) == plan
    assert "does not divide" in kx.plan(models.Odd(), block=(8, 4), rank=3).refusals[0].reason


def test_padding_is_bounded_by_the_share() -> None:
    assert kx.plan(nn.Linear(57, 64), block=(4, 8), rank=1, padding=0.12).choices == ()
    (choice,) = kx.plan(nn.Linear(57, 64), block=(4, 8), rank=1, padding=0.13).choices
    assert choice.padding == (0, 7)


def test_the_vocabulary_of_gpt2_is_padded() -> None:
    """50257 = 29 x 1733: padded by less than one block, its plan has fewer parameters, or one at all."""
    head = nn.Linear(768, 50257, bias=False, device="meta")
    for rank in (1, 8):
        (best,), (grown,) = (kx.plan(head, rank=rank, padding=share).choices for share in (0.0, 0.001))
        assert grown.parameters < best.parameters
        assert sum(p.numel() for p in kx.factorize(head, kx.Plan((grown,))).parameters()) == grown.parameters
    assert kx.plan(head, block=(64, 64)).choices == ()
    assert kx.plan(head, block=(64, 64), padding=0.001).choices[0].padding == (47, 0)


def test_a_plan_for_another_convolution_is_refused() -> None:
    plan = kx.plan(nn.Sequential(nn.Conv2d(18, 8, 1)), rank=2, block=(4, 6))
    with pytest.raises(kx.KronfxError, match=r"0 \(8x18\): the blocks 2x3 of 4x6 give 8x18"):
        kx.factorize(nn.Sequential(nn.Conv2d(2, 8, 3)), plan)


def random_head(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.Odd().eval()


def test_full_rank_is_exact_and_the_whole_way_holds(tmp_path: Path) -> None:
    dense, x = random_head(), torch.randn(5, 37)
    full = kx.plan(dense, block=(8, 4), rank="full", padding=1.0)
    exact = kx.factorize(dense, full, init="nearest")
    torch.testing.assert_close(exact(x), dense(x), rtol=0, atol=1e-4)
    factored = kx.factorize(dense, plan_of(dense)).eval()
    with torch.no_grad():
        for factors in kx.factors(factored).values():
            factors.S.view(-1)[1::2] = 0.0
    wanted = factored(x)
    folded = kx.fold(factored)
    torch.testing.assert_close(folded(x), wanted, rtol=0, atol=1e-5)
    for name, weight in folded_layers(folded).items():
        assert weight.weight.shape == kx.factors(factored)[name].materialize().shape
        assert weight.zero_blocks() >= weight.blocks // 2
    assert kx.inspect(folded).zero_blocks == kx.inspect(factored).zero_blocks > 0
    assert kx.inspect(folded).blocks == kx.inspect(factored).blocks == 7 * 10 + 6 * 14 + 2 * 12
    for number, model in enumerate((factored, folded)):
        kx.save(model, tmp_path / str(number))
        loaded = kx.load(random_head(1), tmp_path / str(number)).eval()
        assert torch.equal(loaded(x), model(x))
        assert loaded.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("lowering", ["auto", "dense", "factors"])
def test_the_onnx_file_computes_it(tmp_path: Path, lowering: str) -> None:
    model = nn.Sequential(nn.Linear(190, 250), nn.ReLU(), nn.Linear(250, 61)).eval()
    factored = kx.factorize(model, block=(16, 16), rank=2, padding=1.0)
    with torch.no_grad():
        for factors in kx.factors(factored).values():
            factors.S.view(-1)[1::2] = 0.0
    report = kx.export_onnx(factored, tmp_path / "m.onnx", torch.randn(3, 190), lowering=lowering)
    assert [(layer.m, layer.n) for layer in report.layers] == [(250, 190), (61, 250)]
    x = torch.randn(2, 190)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), factored(x).detach(), rtol=0, atol=1e-5)
    if lowering == "dense":
        assert all(layer.bytes < 0.7 * layer.dense_bytes for layer in report.layers)


def test_the_spelled_out_graph_folds_too() -> None:
    factored = kx.factorize(random_head(), plan_of(random_head())).eval()
    x = torch.randn(4, 37)
    spelled = kx.graph(factored)
    torch.testing.assert_close(spelled(x), factored(x))
    torch.testing.assert_close(kx.fold(spelled)(x), factored(x), rtol=0, atol=1e-5)


def test_candidates_may_reach_beyond_the_layer_each_by_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense, x = nn.Sequential(nn.Linear(37, 53)).eval(), torch.randn(5, 37)
    plan = kx.plan(dense, block=[(8, 4), (6, 6), (1, 37)], rank=1, padding=1.0)
    assert [choice.padding for choice in plan.choices] == [(3, 3), (1, 5), (0, 0)]
    model = kx.factorize(dense, plan).eval()
    W = sum(dense_oracle(layer) for layer in candidates_of(model[0]))
    torch.testing.assert_close(model(x), (x @ W.T + dense[0].bias).detach(), rtol=1e-5, atol=1e-5)
    folded = kx.fold(model)
    torch.testing.assert_close(folded[0].weight.detach(), W, rtol=1e-5, atol=1e-6)
    assert folded_layers(folded)["0"].shape == KroneckerShape(53, 37, 1, 1)
    kx.save(model, tmp_path / "saved")
    assert torch.equal(kx.load(nn.Sequential(nn.Linear(37, 53)), tmp_path / "saved").eval()(x), model(x))
    kx.export_onnx(model, tmp_path / "m.onnx", x)
    model[0].drop(candidates_of(model[0])[1:])
    torch.testing.assert_close(model[0].weight.detach(), dense_oracle(model[0]))
    assert kx.inspect(kx.fold(model)).blocks == 7 * 10


@pytest.mark.parametrize("block", [(8, 4), (1, 37)])
def test_the_energy_a_layer_knows_is_the_plans(block: tuple[int, int]) -> None:
    dense = nn.Linear(37, 53)
    plan = kx.plan(dense, block=block, rank=1, padding=1.0, energy=True)
    layer = kx.factorize(dense, plan, init="nearest")
    assert layer.energy == pytest.approx(plan.choices[0].energy, rel=1e-5)  # float32


def test_weights_that_owners_read_are_sliced() -> None:
    dense = nn.TransformerEncoderLayer(20, 4, 30, batch_first=True).eval()
    factored = kx.factorize(dense, plan_of(dense, (16, 8), 2)).eval()
    x = torch.randn(2, 3, 20)
    assert factored(x).shape == (2, 3, 20)
    assert factored.self_attn.in_proj_weight.shape == (60, 20)
    torch.testing.assert_close(kx.fold(factored)(x), factored(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(factored)(x), factored(x))


def test_a_convolution_is_not_padded() -> None:
    plan = kx.plan(nn.Conv2d(6, 10, 3), block=(4, 4), rank=2, padding=1.0)
    assert plan.refusals[0].reason == "the block 4x4 does not divide it"


@pytest.mark.parametrize(
    "shape", [KroneckerShape(8, 10, 8, 4), KroneckerShape(7, 11, 8, 4), KroneckerShape(6, 10, 8, 4)]
)
def test_a_whole_surplus_block_or_a_missing_row_is_refused(shape: KroneckerShape) -> None:
    site = Site("0", "Linear", 53, 37)
    plan = kx.Plan((Choice(site, shape, 1, cheapest(shape, 1, 512)),))
    with pytest.raises(kx.KronfxError, match=r"0 \(53x37\): the blocks .* or less than one block more"):
        kx.factorize(nn.Sequential(nn.Linear(37, 53)), plan)


def test_training_moves_only_what_is_seen() -> None:
    layer = padded(5, 7, (4, 4), 2, "a_first")
    layer(torch.randn(3, 7, dtype=torch.float64)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in layer.parameters())
    assert dataclasses.replace(layer.factors, features=None).materialize().shape == (8, 8)
