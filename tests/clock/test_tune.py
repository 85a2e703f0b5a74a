"""``kronfx.tune``: the clock decides, nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import kronfx as kx
from kronfx.layers import KroneckerLinear, kronecker_layers
from kronfx.records import EVALUATIONS, KroneckerShape


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.BatchNorm1d(96), nn.Dropout(0.5), nn.ReLU(), nn.Linear(96, 64))


def factored(**options: object) -> nn.Module:
    return kx.factorize(model(), rank=2, block=(8, 8), zero_start=None, **options)  # type: ignore[arg-type]


@pytest.fixture
def close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which everything takes as long: the clock has to decide everywhere."""
    monkeypatch.setattr("kronfx.clock.tuning.rates_here", lambda: kx.Rates(0, 0, 1))
    monkeypatch.setattr("kronfx.clock.tuning.CLOSE", 10.0)


@pytest.mark.usefixtures("close")
def test_the_shortest_measured_time_is_chosen() -> None:
    network = factored()
    tuning = kx.tune(network, torch.randn(40, 64))
    layers = kronecker_layers(network)
    assert [one.layer for one in tuning.layers] == list(layers)
    for one in tuning.layers:
        assert one.rows == 40
        assert all(seconds is not None and seconds > 0 for seconds in one.measured)
        best = min(zip(one.measured, EVALUATIONS))[1]  # type: ignore[type-var]
        assert layers[one.layer].evaluation == one.chosen == best
        assert layers[one.layer].measured_seconds == min(one.measured)  # type: ignore[type-var]
    assert "tuned: 2 layers" in str(tuning)
    assert "ms measured" in str(kx.inspect(network))


def test_what_is_predicted_far_apart_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronfx.clock.tuning.rates_here", lambda: kx.Rates(1, 0, 0))
    network = factored()
    tuning = kx.tune(network, torch.randn(10**4, 64))
    for one in tuning.layers:
        assert one.measured == (None, None, None)
        assert one.predicted[EVALUATIONS.index(one.chosen)] == min(one.predicted)
    assert "ms measured" not in str(kx.inspect(network))


@pytest.mark.usefixtures("close")
def test_tuning_leaves_everything_else_as_it_was() -> None:
    network, x = factored().train(), torch.randn(40, 64)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.get_rng_state()
    kx.tune(network, (x,))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block", [(4, 4), (16, 16), (32, 8)])
@pytest.mark.parametrize("rank", [1, 3])
def test_results_do_not_depend_on_the_choice_beyond_rounding(
    dtype: torch.dtype, block: tuple[int, int], rank: int
) -> None:
    torch.manual_seed(0)
    layer = kronecker_layers(kx.factorize(nn.Sequential(nn.Linear(64, 96)).to(dtype), rank=rank, block=block))["0"]
    x = torch.randn(50, 64, dtype=dtype, requires_grad=True)

    def outcome(evaluation: str) -> list[Tensor]:
        layer.evaluation = evaluation  # type: ignore[assignment]
        y = layer(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]

    first, *others = map(outcome, EVALUATIONS)
    for other in others:
        for one, same in zip(first, other):
            bound = 200 * torch.finfo(dtype).eps * float(one.detach().abs().max())  # sums of up to 50 x 96 products
            torch.testing.assert_close(one, same, atol=bound, rtol=0)


def test_factorize_tunes_on_the_inputs_it_is_shown() -> None:
    network = factored(tune=True, example_inputs=torch.randn(40, 64))
    assert all(layer.predicted_seconds is not None for layer in kronecker_layers(network).values())
    plan = kx.plan(model(), rank=2, block=(8, 8))
    planned = kx.factorize(model(), plan, tune=True, example_inputs={"input": torch.randn(40, 64)})
    assert kronecker_layers(planned).keys() == kronecker_layers(network).keys()
    with pytest.raises(kx.KronfxError, match="tune=True without example_inputs"):
        kx.factorize(model(), plan, tune=True)


def test_a_forced_choice_stays() -> None:
    plan = kx.plan(model(), rank=2, block=(8, 8)).edited("0", evaluation="materialize")
    assert plan.choices[0].seconds is None  # nobody predicted that one
    layer = kx.factorize(model(), plan).get_submodule("0")
    assert isinstance(layer, KroneckerLinear)
    assert layer.evaluation == "materialize"


def test_inputs_that_do_not_fit_get_a_sentence() -> None:
    with pytest.raises(kx.KronfxError, match="^tune: the model does not run on example_inputs"):
        kx.tune(factored(), torch.randn(4, 5))
    with pytest.raises(kx.KronfxError, match="^tune: a str where the model belongs"):
        kx.tune("model", torch.randn(4, 5))  # type: ignore[arg-type]


def test_layers_of_other_kinds_and_those_never_reached() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Flatten(), nn.Linear(32 * 36, 16))
    network.register_module("idle", nn.Linear(64, 64))
    network.forward = lambda x: network[2](network[1](network[0](x)))  # type: ignore[method-assign]
    rewritten = kx.factorize(network, rank=1, block={"0": (8, 8), "2": (8, 8), "idle": (8, 8)})
    tuning = kx.tune(rewritten, torch.randn(2, 16, 6, 6))
    assert {one.layer: one.rows for one in tuning.layers} == {"0": 2 * 36, "2": 2}


def test_plans_say_what_they_predict() -> None:
    plan = kx.plan(model(), rank=2, block=(8, 8), rows=128)
    assert kx.Plan.from_json(plan.to_json()) == plan
    assert all(choice.seconds and choice.dense_seconds for choice in plan.choices)
    assert "ms predicted" in str(kx.inspect(plan))
    budgeted = kx.plan(model(), max_flops=0.5)
    assert all(choice.seconds is None for choice in budgeted.choices)


def test_a_model_that_stops_without_a_word() -> None:
    class Silent(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError

    with pytest.raises(kx.KronfxError, match=r"does not run on example_inputs \(ValueError\)"):
        kx.tune(Silent(KroneckerLinear(KroneckerShape(2, 2, 2, 2), 1, "a_first")), torch.randn(3, 4))
