"""What feeds emptied maps goes with them, and other blocks stay in its place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import kronfx as kx
from kronfx.layers import folded_layers


class Branches(nn.Module):
    """A faint branch of two maps beside a map of which four blocks are fainter still."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.main = nn.Linear(4, 16), nn.Linear(16, 64), nn.Linear(16, 64)
        with torch.no_grad():
            self.down.weight.mul_(1e-2)
            self.main.weight[:4].mul_(1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) + self.down(torch.tanh(self.up(x[:, :4])))


def test_what_feeds_an_emptied_map_goes_before_what_is_read() -> None:
    torch.manual_seed(0)
    model, batches = Branches(), [torch.randn(200, 16) for _ in range(2)]
    with pytest.warns(UserWarning, match=r"leaves nothing of up, down: constant outputs now"):
        pruned = kx.prune(model, batches, target=68 / 132, block=(4, 4))
    assert {name: layer.zero_blocks() for name, layer in folded_layers(pruned).items()} == {
        "up": 4,
        "down": 64,
        "main": 0,
    }
    by_energy = kx.prune(model, batches, target=68 / 132, block=(4, 4), how="energy", shares="uniform")
    assert all(layer.zero_blocks() < layer.blocks for layer in folded_layers(by_energy).values())
