"""What is left, set anew on the pruned prefix, against torch's least squares on what the pruned model computes."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from models import mlp, skip
from torch import Tensor, nn

import kronfx as kx
from kronfx.compress import prefix
from kronfx.compress.maps import Map
from kronfx.compress.taps import Tap, seen
from kronfx.layers import folded_layers
from kronfx.records import KroneckerShape, Site


def heard(model: nn.Module, layer: nn.Module, batches: list[Tensor]) -> Tensor:
    """All inputs of a layer."""
    found: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, given: found.append(given[0].detach()))
    for batch in batches:
        model(batch)
    handle.remove()
    return torch.cat(found)


def test_a_branch_end_repairs_the_stream_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix, "CONSTANT", 0.0)
    torch.manual_seed(0)
    model = nn.Sequential(skip(8, 12, 8), skip(8, 12, 8)).double()
    batches = [torch.randn(60, 8, dtype=torch.float64) for _ in range(3)]
    pruned: Any = kx.prune(model, batches, target=0.5, block=(4, 3), damping=1e-10, shares="rows")
    x, ours = heard(model, model[1][2], batches), heard(pruned, pruned[1][2], batches)
    r, streams = heard(model, model[1], batches), heard(pruned, pruned[1], batches)
    wanted = (model[1][2](x) + r - streams).detach()
    with_ones = torch.cat([ours, torch.ones(len(ours), 1, dtype=torch.float64)], 1)
    end = pruned[1][2]
    assert folded_layers(pruned)["1.2"].zero_blocks()
    for row in range(8):
        alive = [*end.weight[row].nonzero()[:, 0].tolist(), 12]
        best = torch.linalg.lstsq(with_ones[:, alive], wanted[:, row, None]).solution[:, 0]
        have = torch.cat([end.weight[row], end.bias[row, None]]).detach()[alive]
        torch.testing.assert_close(have, best, rtol=1e-5, atol=1e-6)


def test_the_whole_model_errs_less_than_after_maps_by_themselves() -> None:
    torch.manual_seed(0)
    model = mlp(24, 48, 48, 24)
    batches = [torch.randn(100, 24) for _ in range(4)]
    wanted = torch.cat([model(x) for x in batches])

    def error(refit: Any) -> float:
        pruned = kx.prune(model, batches, target=0.6, block=(4, 4), refit=refit, shares="uniform")
        return float((torch.cat([pruned(x) for x in batches]) - wanted).square().mean())

    with torch.no_grad():
        assert error("prefix") < 0.8 * error("exact")


class Scaled(nn.Module):
    """One map is added to a stream, one is scaled before it is."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.scaled, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.plain(x)
        x = 2 * self.scaled(x) + x
        return self.last(x)


def test_a_forward_ends_with_the_last_tap_and_streams_are_what_outputs_are_added_to() -> None:
    model, x = Scaled(), torch.randn(4, 6)
    ran = []
    model.last.register_forward_hook(lambda *_: ran.append("last"))
    taps = {
        name: Tap(Map(Site(name, "Linear", 6, 6), layer, "weight", KroneckerShape(3, 3, 2, 2)))
        for name, layer in model.named_children()
    }
    seen(list(taps.values()), partial(model, x), whole=True)
    assert ran == ["last"]
    assert [len(tap.xs) for tap in taps.values()] == [1, 1, 1]
    assert torch.equal(taps["plain"].streams[0], x)
    assert not taps["scaled"].streams
    assert not taps["last"].streams
    again = Tap(taps["plain"].map, calls=1, sums=1)
    seen([again], partial(model, x))
    assert ran == ["last"]
    assert torch.equal(again.xs[0], x)
    assert torch.equal(again.streams[0], x)


def test_where_routing_differs_the_map_stays_as_it_was() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.expert = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.router(x)
            return torch.cat([self.expert(y[y[:, 0] > 0]), y[y[:, 0] <= 0]])

    torch.manual_seed(1)
    model, batches = Routed(), [torch.randn(50, 8) for _ in range(2)]
    exact, again = (kx.prune(model, batches, target=0.6, block=(2, 2), refit=refit) for refit in ("exact", "prefix"))
    assert not torch.equal(exact.router.weight, again.router.weight)
    assert torch.equal(exact.expert.weight, again.expert.weight)
