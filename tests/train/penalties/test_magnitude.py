"""Magnitude pruning against torch's own: what goes, what stays, and a group of every weight."""

from __future__ import annotations

import copy

import pytest
import torch
from models import mlp
from torch.nn.utils import prune

from kronfx.train import Blocks, Entries, MagnitudePruning, Rows, Stepped


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_unstructured_pruning_is_torchs_global_pruning(share: float) -> None:
    torch.manual_seed(0)
    model = mlp(16, 24, 8)
    twin = copy.deepcopy(model)
    prune.global_unstructured([(twin[0], "weight"), (twin[2], "weight")], prune.L1Unstructured, amount=share)
    MagnitudePruning(model, Entries(), share).step()
    for mine, theirs in ((model[0], twin[0]), (model[2], twin[2])):
        assert torch.equal(mine.weight, theirs.weight)


def test_block_pruning_zeroes_the_blocks_of_the_smallest_typical_entry() -> None:
    torch.manual_seed(0)
    model = mlp(16, 24, 8)
    typical = {
        (index, p, j): float(model[index].weight[p : p + m2, j : j + n2].detach().square().mean())
        for index, (m2, n2) in {0: (4, 8), 2: (2, 2)}.items()
        for p in range(0, model[index].out_features, m2)
        for j in range(0, model[index].in_features, n2)
    }
    smallest = sorted(typical, key=lambda block: typical[block])[:30]
    pruning = MagnitudePruning(model, {"0": Blocks(4, 8), "2": Blocks(2, 2)}, 0.5)
    pruning.step()
    assert pruning.sparsity() == 30 / 60
    for block in typical:
        index, p, j = block
        m2, n2 = {0: (4, 8), 2: (2, 2)}[index]
        assert bool(model[index].weight[p : p + m2, j : j + n2].any()) == (block not in smallest)


def test_what_is_pruned_stays_pruned_while_the_share_grows() -> None:
    torch.manual_seed(0)
    model = mlp(16, 24, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    pruning = MagnitudePruning(model, Blocks(2, 2), Stepped(0.0, 0.25, every=10, end=0.75), optimizer)
    shares, dead = [], torch.zeros(24, 16, dtype=torch.bool)
    for _ in range(50):
        optimizer.zero_grad()
        model(torch.randn(8, 16)).square().mean().backward()
        optimizer.step()
        pruning.step()
        assert not bool(model[0].weight[dead].any())
        dead = model[0].weight == 0
        shares.append(pruning.sparsity())
    assert shares == [0.0] * 10 + [0.25] * 10 + [0.5] * 10 + [0.75] * 20
    assert float(pruning.penalty()) == 0


def test_a_weight_keeps_one_group() -> None:
    model = mlp(4, 4, 4)
    with torch.no_grad():
        model[0].weight *= 1e-6
    pruning = MagnitudePruning(model, Blocks(2, 2), 0.5)
    pruning.step()
    assert pruning.layers() == {"0": (3, 4), "2": (1, 4)}


def test_a_share_that_rounds_up_to_everything_leaves_a_group_of_every_weight() -> None:
    model = mlp(16, 24, 8)
    pruning = MagnitudePruning(model, Rows(), 0.99)
    pruning.step()
    assert pruning.layers() == {"0": (23, 24), "2": (7, 8)}
