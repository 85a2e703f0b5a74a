"""Once its zeros are frozen a layer looks, by the clock, whether to multiply only what is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kronfx as kx
from kronfx.layers import KroneckerLinear, kronecker_layers


def frozen(model: nn.Module, optimizer: torch.optim.Optimizer, target: float = 0.95) -> kx.train.BlockSparsity:
    """A penalty at its end; the model's ``S`` have their zeros."""
    sparsity = kx.train.BlockSparsity(model, target=target, optimizer=optimizer)
    for layer in kronecker_layers(model).values():
        layer.S.data.mul_(torch.rand_like(layer.S) >= target + 0.02)
        layer.S.data[0, 0] = 1
    sparsity.freeze()
    return sparsity


def wide_model() -> nn.Module:
    torch.manual_seed(0)
    return kx.factorize(nn.Sequential(nn.Linear(1024, 1024), nn.GELU(), nn.Linear(1024, 1024)), rank=8, block=(32, 32))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, sparsity: kx.train.BlockSparsity, x: torch.Tensor) -> None:
    optimizer.zero_grad()
    (model(x).square().mean() + sparsity.penalty()).backward()
    optimizer.step()
    sparsity.step()


def test_layers_multiply_what_is_left_once_frozen_and_say_so() -> None:
    model, x = wide_model(), torch.randn(256, 1024)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    sparsity = frozen(model, optimizer)
    layers = list(kronecker_layers(model).values())
    zeros = [layer.S == 0 for layer in layers]
    for _ in range(3):
        step(model, optimizer, sparsity, x)
    for layer, zero in zip(layers, zeros):
        assert layer.running.startswith("blocks")
        assert torch.equal(layer.S == 0, zero)
    assert "blocks (" in str(kx.inspect(model))
    assert "blocks (" in str(model)


def test_so_they_do_where_a_frozen_state_is_loaded() -> None:
    model, other = wide_model(), wide_model()
    optimizer, others = (torch.optim.Adam(m.parameters(), 1e-3) for m in (model, other))
    sparsity = frozen(model, optimizer)
    other.load_state_dict(model.state_dict())
    resumed = kx.train.BlockSparsity(other, target=0.95, optimizer=others)
    assert all(layer.skipping is None for layer in kronecker_layers(other).values())
    resumed.load_state_dict(sparsity.state_dict())
    for _ in range(2):
        step(model, optimizer, sparsity, torch.ones(256, 1024))
        step(other, others, resumed, torch.ones(256, 1024))
    assert all(layer.running.startswith("blocks") for layer in kronecker_layers(other).values())
    for ours, theirs in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("forced", [True, None])
def test_a_wish_stays(forced: bool | None) -> None:
    model = wide_model()
    layer = model[0]
    assert isinstance(layer, KroneckerLinear)
    if forced:
        layer.skip_zeros()
    wish = layer.skipping
    frozen(model, torch.optim.Adam(model.parameters(), 1e-3))
    assert layer.skipping is not None
    assert layer.skipping.forced is bool(forced)
    assert wish is None or layer.skipping is wish
