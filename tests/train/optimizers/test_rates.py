"""param_groups: whose rate is what, that the rule sees neither scale nor spelling, and that a dense rate serves."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear, kronecker_layers
from kronfx.records import KroneckerShape
from kronfx.train import param_groups


class Net(nn.Module):
    """Maps that are factored, one that is not, an embedding, a norm, biases, a matrix of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm, self.own = nn.Embedding(9, 24), nn.LayerNorm(24), nn.Parameter(torch.zeros(3, 4))
        self.up, self.down, self.head = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 9)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens)
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


def factored() -> nn.Module:
    torch.manual_seed(0)
    return kx.factorize(Net(), rank=2, include=["up", "down"])


def rates(model: nn.Module, lr: float, **options: float) -> dict[str, tuple[float, float]]:
    """Name of every parameter -> its rate, and its decay a step."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = param_groups(model, lr, **options)  # type: ignore[arg-type]
    return {names[id(p)]: (g["lr"], g["lr"] * g["weight_decay"]) for g in groups for p in g["params"]}


def test_every_parameter_is_in_one_group_and_decays_as_in_the_dense_model() -> None:
    model = factored()
    found = rates(model, 0.01, weight_decay=0.1)
    assert sorted(found) == sorted(name for name, _ in model.named_parameters())
    assert sum(len(g["params"]) for g in param_groups(model, 0.01)) == len(found)
    assert all(math.isclose(decay, 0.001) for _, decay in found.values())
    assert all(found[name][0] == 0.01 for name in ("head.weight", "own", "up.S", "down.S"))
    factors = [found[f"{layer}.{letter}"][0] for layer in ("up", "down") for letter in "AB"]
    mean = math.exp(sum(map(math.log, factors)) / 4)
    free = ("tokens.weight", "norm.weight", "norm.bias", "head.bias", "up.bias", "down.bias")
    assert all(math.isclose(found[name][0], mean) for name in free)


def test_the_rest_keeps_the_rate_that_is_asked_for() -> None:
    found = rates(factored(), 0.01, rest=0.003, weight_decay=0.1)
    assert {found[name] for name in ("tokens.weight", "norm.weight", "head.bias")} == {(0.003, 0.003 * 0.1)}


@given(
    st.tuples(*[st.integers(1, 9)] * 4), st.integers(1, 4), st.sampled_from(["a_first", "b_first"]), st.floats(0.1, 10)
)
def test_steps_are_the_same_steps_of_the_weight_however_it_is_split(
    dims: tuple[int, int, int, int], rank: int, evaluation: str, scale: float
) -> None:
    """``A`` times ``c`` and ``B`` over ``c`` is the same ``W``: Adam's rates follow it, SGD's its square."""
    layer = KroneckerLinear(KroneckerShape(*dims), rank, evaluation, dtype=torch.float64)  # type: ignore[arg-type]
    model = nn.ModuleDict({"fc": layer})
    before = {like: rates(model, 0.01, like=like) for like in ("adam", "sgd")}  # type: ignore[arg-type]
    with torch.no_grad():
        layer.A.mul_(scale)
        layer.B.div_(scale)
    for like, power in (("adam", 1), ("sgd", 2)):
        after = rates(model, 0.01, like=like)  # type: ignore[arg-type]
        assert math.isclose(after["fc.A"][0], before[like]["fc.A"][0] * scale**power, rel_tol=1e-9)
        assert math.isclose(after["fc.B"][0], before[like]["fc.B"][0] / scale**power, rel_tol=1e-9)


def test_a_start_of_unit_gain_has_the_rates_of_qiu_et_al() -> None:
    """At their deviations the multiple is ``n / d_in``, times the gain that was measured."""
    layer = KroneckerLinear(KroneckerShape(6, 4, 5, 7), 2, "a_first")
    with torch.no_grad():
        layer.A.fill_(4**-0.5)
        layer.B.fill_(14**-0.5 * math.sqrt(5 / 14))
    found = rates(nn.ModuleDict({"fc": layer}), 1e-3)
    assert math.isclose(found["fc.A"][0], 1e-3 * 1.1 * 2**0.25 * 28 / 4, rel_tol=1e-6)
    assert math.isclose(found["fc.B"][0], 1e-3 * 1.1 * 2**0.25 * 28 / 14, rel_tol=1e-6)


def test_no_step_is_longer_than_a_factor_of_few_inputs_bears() -> None:
    layer = KroneckerLinear(KroneckerShape(6, 2, 5, 50), 2, "a_first")
    rms = [float(factor.detach().square().mean().sqrt()) for factor in (layer.A, layer.B)]
    for lr in (0.1, 1.0):
        found = rates(nn.ModuleDict({"fc": layer}), lr)
        assert found["fc.A"][0] == pytest.approx(0.15 * rms[0], rel=1e-6)
        assert found["fc.B"][0] <= 0.15 * rms[1] * (1 + 1e-6)
    assert rates(nn.ModuleDict({"fc": layer}), 0.0)["fc.A"][0] == 0.0


def test_a_factor_that_starts_at_zero_counts_as_its_partner() -> None:
    model = factored()
    layer = kronecker_layers(model)["down"]
    assert not layer.last_factor.any()
    found = rates(model, 0.01)
    with torch.no_grad():
        partner = layer.A if layer.last_factor is layer.B else layer.B
        layer.last_factor.fill_(partner.square().mean().sqrt())
    assert rates(model, 0.01)["down.A"][0] == pytest.approx(found["down.A"][0], rel=1e-6)
    assert rates(model, 0.01)["down.B"][0] == pytest.approx(found["down.B"][0], rel=1e-6)


def test_sgd_moves_the_weight_as_far_as_a_dense_step_along_the_factors() -> None:
    """One factor's step of length ``lr / ||B||^2`` on its gradient is the dense step projected onto that factor."""
    torch.manual_seed(0)
    layer = KroneckerLinear(KroneckerShape(3, 4, 5, 6), 1, "a_first", bias=False, dtype=torch.float64)
    G = torch.randn(15, 24, dtype=torch.float64)
    (layer.weight * G).sum().backward()
    rate = rates(nn.ModuleDict({"fc": layer}), 0.01, like="sgd")["fc.A"][0]  # type: ignore[arg-type]
    moved = torch.kron(rate * layer.A.grad[0], layer.B[0])  # type: ignore[index]
    unit = layer.B[0] / layer.B[0].norm()
    blocks = G.reshape(3, 5, 4, 6).transpose(1, 2)
    projected = (blocks * unit).sum((-2, -1), keepdim=True) * unit
    torch.testing.assert_close(moved, 0.01 * projected.transpose(1, 2).reshape(15, 24), rtol=1e-9, atol=1e-12)


def test_an_embedding_that_is_a_head_too_has_the_rate_of_a_matrix() -> None:
    model = factored()
    model.head.weight = model.tokens.weight
    found = rates(model, 0.01)
    assert found["tokens.weight"][0] == 0.01
    assert found["norm.weight"][0] > 0.01


def test_frozen_parameters_are_left_out() -> None:
    model = factored()
    model.tokens.weight.requires_grad_(False)
    kronecker_layers(model)["up"].S.requires_grad_(False)
    assert {"tokens.weight", "up.S"}.isdisjoint(rates(model, 0.01))


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(TrainError, match="no layer of the model is factored"):
        param_groups(Net(), 0.01)
    model = factored()
    for options in ({"lr": -1.0}, {"lr": math.inf}, {"lr": 0.1, "weight_decay": "x"}, {"lr": 0.1, "rest": math.nan}):
        with pytest.raises(TrainError, match="a finite (lr|weight_decay|rest) of 0 or more"):
            param_groups(model, **options)  # type: ignore[arg-type]
    with pytest.raises(TrainError, match="like='lion'; needed 'adam' or 'sgd'"):
        param_groups(model, 0.01, like="lion")  # type: ignore[arg-type]
    layer = kronecker_layers(model)["up"]
    with torch.no_grad():
        layer.A.zero_()
        layer.B.zero_()
    with pytest.raises(TrainError, match=r"up \(48x24\): factors of root mean square 0 and 0"):
        param_groups(model, 0.01)
