"""``kronfx.factorize(init="calibrated")``: factors that fit what the maps of a model see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import Half, attention, convolutions, mlp
from torch import Tensor, nn

import kronfx as kx


def correlated(n: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(n // 4, n, generator=generator)
    return [torch.randn(60, n // 4, generator=generator) @ mix + 1 for _ in range(count)]


@pytest.mark.parametrize(
    ("model", "batch", "block"),
    [
        (lambda: mlp(24, 36, 20), lambda: correlated(24)[0], (4, 4)),
        (lambda: mlp(23, 35, 20), lambda: correlated(24)[0][:, :23], (4, 4)),
        (attention, lambda: torch.randn(8, 5, 16), (4, 4)),
        (convolutions, lambda: torch.randn(4, 3, 5, 5), None),
    ],
)
def test_outputs_come_nearer_than_from_the_nearest_factors(model: Any, batch: Any, block: Any) -> None:
    torch.manual_seed(0)
    dense = model().eval()
    batches = [batch() for _ in range(4)]
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    plan = kx.plan(dense, rank=1, block=block, zero_start=None, padding=1.0)
    nearest = kx.factorize(dense, plan, init="nearest")
    fitted = kx.factorize(dense, plan, init="calibrated", batches=batches)

    def error(factored: nn.Module) -> float:
        return float(sum((factored(x) - dense(x)).square().mean() for x in batches))

    with torch.no_grad():
        assert error(fitted) < 0.9 * error(nearest)
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    assert kx.factors(fitted).keys() == kx.factors(nearest).keys()


def test_at_full_rank_the_model_comes_back_and_trains() -> None:
    model = mlp(12, 16, 8)
    fitted = kx.factorize(model, rank="full", block=(4, 4), init="calibrated", batches=(x := correlated(12)))
    torch.testing.assert_close(fitted(x[0]), model(x[0]), rtol=1e-4, atol=1e-4)
    fitted(x[0]).sum().backward()
    assert all(p.grad is not None for p in fitted.parameters())


def test_zero_blocks_stay_zero() -> None:
    x = correlated(16)
    pruned = kx.prune(mlp(16, 24, 16), x, target=0.5, block=(4, 4))
    fitted = kx.factorize(pruned, block=(4, 4), rank=2, init="calibrated", batches=x)
    for before, after in zip(kx.inspect(pruned).layers, kx.inspect(fitted).layers):
        assert after.zero_blocks == before.zero_blocks


def test_a_map_that_no_batch_reaches_has_its_nearest_factors() -> None:
    model = Half()
    plan = kx.plan(model, rank=1, block=(2, 2), zero_start=None)
    with pytest.warns(UserWarning, match="no batch reached unused, which have their nearest factors"):
        fitted = kx.factorize(model, plan, init="calibrated", batches=correlated(8))
    nearest: Any = kx.factorize(model, plan, init="nearest")
    torch.testing.assert_close(fitted.unused.weight, nearest.unused.weight)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"init": "calibrated"}, "init='calibrated' without batches; needed batches"),
        ({"batches": []}, "init='random' with batches; needed"),
        ({"init": "calibrated", "batches": []}, "no batch; needed calibration data"),
        ({"init": "calibrated", "batches": [torch.ones(3, 5)]}, "a batch that the model does not take"),
        ({"init": "calibrated", "batches": correlated(12), "block": [(2, 2), (4, 4)]}, "a plan with candidates"),
    ],
)
def test_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(kx.KronfxError, match=f"^factorize: {sentence}"):
        kx.factorize(mlp(12, 16, 8), **options)
