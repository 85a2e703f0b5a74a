"""``kronfx.prune`` on whole models: what comes back, what it computes, and that the model passed in is left alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from models import attention, convolutions, mlp, skip
from torch import Tensor, nn

import kronfx as kx
from kronfx.compress.criteria import CRITERIA
from kronfx.layers import folded_layers
from kronfx.records import PRUNED


def inputs(n: int, count: int = 3, rows: int = 40, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(n, n, generator=generator)
    return [((torch.randn(rows, n, generator=generator) + 0.5) @ mix).to(dtype) for _ in range(count)]


def zero_share(model: nn.Module) -> float:
    layers = folded_layers(model).values()
    return sum(layer.zero_blocks() for layer in layers) / sum(layer.blocks for layer in layers)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("how", CRITERIA)
def test_the_share_is_zero_and_the_model_passed_in_is_left_alone(how: Any) -> None:
    model = mlp(24, 36, 20).train()
    model[0].weight.requires_grad_(False)
    before = state(model)
    pruned = kx.prune(model, inputs(24), target=0.5, block=(4, 4), how=how, floor=0.1)
    assert zero_share(pruned) == pytest.approx(0.5, abs=0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not folded_layers(model)
    assert model.training
    assert pruned.training
    assert all(type(pruned[i]) is nn.Linear for i in (0, 2))
    assert [p.requires_grad for p in pruned.parameters()] == [p.requires_grad for p in model.parameters()]
    assert all(p.grad is None for p in (*model.parameters(), *pruned.parameters()))
    assert kx.inspect(pruned).zero_blocks == sum(layer.zero_blocks() for layer in folded_layers(pruned).values())


def test_what_is_left_is_the_least_squares_fit_of_the_layer_with_its_bias() -> None:
    model = nn.Sequential(nn.Linear(12, 8)).double()
    X = torch.cat(batches := inputs(12, dtype=torch.float64))
    pruned = kx.prune(model, batches, target=0.5, block=(4, 3), damping=1e-9, refit="exact")
    with_ones = torch.cat([X, torch.ones(len(X), 1, dtype=torch.float64)], 1)
    wanted = model(X).detach()
    for row in range(8):
        alive = [*pruned[0].weight[row].nonzero()[:, 0].tolist(), 12]
        best = torch.linalg.lstsq(with_ones[:, alive], wanted[:, row, None]).solution[:, 0]
        have = torch.cat([pruned[0].weight[row], pruned[0].bias[row, None]]).detach()[alive]
        torch.testing.assert_close(have, best, rtol=1e-5, atol=1e-6)


def test_several_targets_are_what_each_of_them_is() -> None:
    model, batches = mlp(24, 36, 20), inputs(24)
    together = kx.prune(model, batches, target=[0.25, 0.75], block=(4, 4))
    for target, pruned in zip((0.25, 0.75), together):
        alone = kx.prune(model, batches, target=target, block=(4, 4))
        assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), pruned.parameters()))
    assert not torch.equal(together[0][0].weight, together[1][0].weight)


def test_little_memory_takes_more_passes_and_changes_nothing() -> None:
    model, batches = mlp(24, 36, 20), inputs(24)
    whole, pieces = (kx.prune(model, batches, target=0.5, block=(4, 4), memory=m) for m in (2**31, 0))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters()))


def test_a_loss_of_the_users_says_what_outputs_are_worth() -> None:
    """Of two outputs one does not count: its rows go first."""
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 8))
    batches = [(x, torch.randn(len(x))) for x in inputs(16)]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0])[:, :4].sum(1) - batch[1]).square().mean()

    pruned = kx.prune(model, batches, target=0.5, block=(4, 4), loss=loss, include="1")
    assert not pruned[1].weight[4:].any()
    assert pruned[1].weight[:4].all()
    assert vars(pruned)[PRUNED].weighed_by == "the loss passed"


def test_a_model_that_returns_its_own_loss_is_weighed_by_that() -> None:
    class Judged(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).square().mean()

    pruned = kx.prune(nn.Sequential(Judged(16, 8)), inputs(16), target=0.5, block=(4, 4))
    assert vars(pruned)[PRUNED].weighed_by == "the model's own loss"


def test_targets_by_name_and_maps_left_out() -> None:
    model = mlp(24, 36, 20, 8)
    pruned = kx.prune(model, inputs(24), target={"*": 0.5, "2": 0.2}, exclude="4", block=(4, 4))
    shares = {name: layer.zero_blocks() / layer.blocks for name, layer in folded_layers(pruned).items()}
    assert shares == {"0": 0.5, "2": 0.2}


@pytest.mark.parametrize(
    ("target", "left"),
    [(0.5, "{0,2} (2)"), ({"0": 0.2, "2": 0.9}, "0"), (0.9, None)],
)
def test_blocks_that_are_zero_stay_zero(target: Any, left: str | None) -> None:
    """At any target; a lower one than there is takes nothing, and says so."""
    once = kx.prune(mlp(24, 36, 20), inputs(24), target=0.75, block=(4, 4))
    before = {name: layer.zero_blocks() for name, layer in folded_layers(once).items()}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        twice = kx.prune(once, inputs(24), target=target, block=(4, 4), floor=0.05)
    sentence = f"kronfx.prune at {target}: {left} had more zero blocks; they stay zero"
    assert [str(each.message) for each in said] == ([sentence] if left else [])
    for (name, first), second in zip(folded_layers(once).items(), folded_layers(twice).values()):
        found, left_before = (W.view(len(W) // 4, 4, -1, 4).ne(0).any(3).any(1) for W in (second.weight, first.weight))
        assert not (found & ~left_before).any()
        assert second.zero_blocks() == before[name] or target != 0.5


@pytest.mark.parametrize(
    ("model", "batch", "block"),
    [
        (attention, lambda: torch.randn(8, 5, 16), (4, 4)),
        (convolutions, lambda: torch.randn(4, 3, 5, 5), (2, 3)),
        (lambda: skip(16, 24, 16), lambda: torch.randn(30, 16), (5, 7)),
    ],
)
def test_spellings(model: Any, batch: Any, block: tuple[int, int]) -> None:
    """Packed attention, kernels, padded grids: pruned, and nearer to the model than magnitude comes."""
    torch.manual_seed(0)
    dense = model().eval()
    batches = [batch() for _ in range(6)]
    ours, theirs = (
        kx.prune(dense, batches, target=0.4, block=block, how=how, shares="uniform") for how in ("obs", "magnitude")
    )
    sites = {layer.site for layer in kx.inspect(dense).layers}
    assert folded_layers(ours).keys() == sites - {r.site for r in kx.inspect(ours).refusals}
    assert zero_share(ours) == pytest.approx(0.4, abs=0.06)
    wanted = torch.cat([dense(x).flatten(1) for x in batches])

    def error(pruned: nn.Module) -> float:
        return float((torch.cat([pruned(x).flatten(1) for x in batches]) - wanted).square().mean())

    with torch.no_grad():
        assert error(ours) < error(theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    model = mlp(16, 24, 16).to(dtype)
    pruned = kx.prune(model, inputs(16, dtype=dtype), target=0.5, block=(4, 4))
    assert {p.dtype for p in pruned.parameters()} == {dtype}
    assert zero_share(pruned) == pytest.approx(0.5, abs=0.02)


def test_what_no_batch_reaches_is_left_alone_with_its_reason() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.cut, self.unused = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) + self.cut(x).detach() if len(x) else self.unused(x)

    pruned = kx.prune(Half(), inputs(8), target=0.5, block=(2, 2))
    reasons = {refusal.site: refusal.reason for refusal in kx.inspect(pruned).refusals}
    assert reasons["unused"] == "no product with it ran in the calibration batches"
    assert reasons["cut"].startswith("no gradient reached it")
    assert folded_layers(pruned).keys() == {"used"}


def test_inputs_that_never_vary_go_into_the_bias() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    x = torch.ones(20, 8)
    pruned = kx.prune(model, [x, x], target=0.5, block=(2, 2))
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_result_is_exported_in_blocks(tmp_path: Path) -> None:
    model = mlp(64, 128, 64)
    x = inputs(64)
    pruned = kx.prune(model, x, target=0.75, block=(16, 16))
    report = kx.export_onnx(pruned.eval(), tmp_path / "pruned.onnx", x[0])
    assert report.bytes < 0.5 * sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("how", ["obs", "energy"])
@pytest.mark.parametrize("x", [torch.zeros(4, 64), torch.full((4, 64), 0.3), torch.linspace(-1, 1, 64)[None]])
def test_inputs_that_never_vary(x: Tensor, how: str) -> None:
    """Their moments are rounding, in front of the second map not even positive; every weight is as good."""
    model = mlp(64, 128, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # one of the two may be left with nothing
        pruned = kx.prune(model, [x], target=0.75, block=(16, 16), how=how)
    assert torch.isfinite(pruned(x)).all()
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-3, atol=1e-3)  # the biases take the means
