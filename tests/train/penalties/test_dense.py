"""The baselines: proximal steps against a numerical minimum, pruning against torch's own, groups that tile a weight."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import lenet5, mlp
from scipy.optimize import minimize
from torch import nn
from torch.nn.utils import prune

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import (
    Blocks,
    Columns,
    Elastic,
    ElasticGroupLasso,
    Entries,
    GroupLasso,
    Lasso,
    MagnitudePruning,
    Rows,
    Stepped,
)
from kronfx.train.parts.groups import Groups
from kronfx.train.parts.shrinkage import Shrinkage

GROUPS: list[Groups] = [Blocks(2, 3), Rows(), Columns(), Entries()]
SHRINKAGES: list[Shrinkage] = [Lasso(), Elastic(0.7)]
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: a handful of roundings


def members(groups: Groups, m: int, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The entries of every group, cut out by hand."""
    m2, n2 = {Blocks(2, 3): (2, 3), Rows(): (1, n), Columns(): (m, 1), Entries(): (1, 1)}[groups]
    return [
        tuple(np.meshgrid(range(p, p + m2), range(j, j + n2), indexing="ij"))
        for p in range(0, m, m2)
        for j in range(0, n, n2)
    ]


def linear(m: int = 4, n: int = 6, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(n, m, dtype=torch.float64)


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_a_step_is_the_minimum_it_claims_to_be(groups: Groups, shrinkage: Shrinkage) -> None:
    """``argmin_z 1/2 ||z - w||^2 + t charge(||z||)``, group by group, by scipy and at zero."""
    layer = linear()
    before = layer.weight.detach().numpy().copy()
    threshold = 0.3
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    penalty = GroupLasso(layer, groups, strength=threshold / 1e-3, optimizer=optimizer, shrinkage=shrinkage)
    optimizer.step()
    penalty.step()
    after = layer.weight.detach().numpy()
    zeros = 0
    for where in members(groups, 4, 6):
        w, z = before[where].ravel(), after[where].ravel()

        def objective(v: np.ndarray, w: np.ndarray = w) -> float:
            norm = torch.tensor([np.linalg.norm(v)])
            return float(0.5 * ((v - w) ** 2).sum() + threshold * float(shrinkage.charge(norm)))

        found = minimize(objective, w * 0.9, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).fun
        assert objective(z) <= min(found, objective(np.zeros_like(w))) + 1e-7
        zeros += not z.any()
    assert GroupLasso(layer, groups).sparsity() == zeros / len(members(groups, 4, 6))


@given(st.sampled_from(GROUPS), st.floats(0, 2), st.floats(0, 3), st.integers(0, 50))
def test_the_proximal_step_in_closed_form(groups: Groups, threshold: float, ridge: float, seed: int) -> None:
    layer = linear(seed=seed)
    wanted = layer.weight.detach().clone()
    for where in members(groups, 4, 6):
        norm = wanted[where].norm()
        wanted[where] *= max(0.0, float(1 - threshold / norm)) / (1 + threshold * ridge)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    penalty = ElasticGroupLasso(layer, groups, 2 * threshold, optimizer=optimizer, ridge=ridge)
    optimizer.step()
    penalty.step()
    torch.testing.assert_close(layer.weight.detach(), wanted, **EXACT)


@pytest.mark.parametrize("groups", GROUPS)
def test_the_penalty_is_the_value_of_the_objective(groups: Groups) -> None:
    layer = linear()
    norms = np.array([np.linalg.norm(layer.weight.detach().numpy()[where]) for where in members(groups, 4, 6)])
    assert float(GroupLasso(layer, groups, 0.3).penalty()) == pytest.approx(0.3 * norms.sum())
    elastic = ElasticGroupLasso(layer, groups, 0.3, ridge=2.0)
    assert float(elastic.penalty()) == pytest.approx(0.3 * (norms + norms**2).sum())


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


def test_a_convolution_is_cut_as_the_map_of_its_patches() -> None:
    torch.manual_seed(0)
    model = lenet5()
    pruning = MagnitudePruning(model, {"0": Rows(), "3": Blocks(4, 25), "fc*": Entries(), "fc3": Blocks(2, 2)}, 0.3)
    assert {name: groups for name, (_, groups) in pruning.layers().items()} == {
        "0": 6,
        "3": 24,  # 4 x 6 tiles of 4 filters by one channel of 25 taps
        "fc1": 48000,
        "fc2": 10080,
        "fc3": 210,
    }


def test_a_target_is_reached_on_a_dense_model() -> None:
    torch.manual_seed(0)
    model = mlp(16, 24, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    penalty = GroupLasso(model, Blocks(2, 2), target=0.6, optimizer=optimizer)
    for _ in range(600):
        optimizer.zero_grad()
        model(torch.randn(8, 16)).square().mean().backward()
        optimizer.step()
        penalty.step()
    assert penalty.sparsity() == pytest.approx(0.6, abs=0.01)


def test_a_shared_weight_counts_once_and_a_factored_layer_not_at_all() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, layer, nn.Linear(4, 4))
    assert list(GroupLasso(model, Blocks(2, 2)).layers()) == ["0", "2"]
    mixed = kx.factorize(mlp(16, 16, 16), include="0", rank=1, block=(4, 4))
    assert list(GroupLasso(mixed, Blocks(2, 2)).layers()) == ["2"]


def test_bad_input_is_told_what_to_do() -> None:
    model = mlp(16, 24, 8)
    with pytest.raises(TrainError, match=r"0 \(24x16\): blocks of 5x2 in a weight of 24x16; .* give each layer"):
        GroupLasso(model, Blocks(5, 2))
    with pytest.raises(TrainError, match="groups names 'fc'; needed what it can act on: 0, 2; name one"):
        GroupLasso(model, {"fc": Rows()})
    with pytest.raises(TrainError, match=r"no nn.Linear in the model"):
        GroupLasso(nn.Conv2d(3, 3, 3), Rows())
    with pytest.raises(TrainError, match="ridge=-1"):
        ElasticGroupLasso(model, Rows(), ridge=-1)
    with pytest.raises(TrainError, match="share is 1 at step 0; needed a share below 1"):
        MagnitudePruning(model, Entries(), 1.0)
    for groups in (None, "rows", Rows, (2, 2), {"0": None}):
        with pytest.raises(TrainError, match=r"groups=.*; needed a value such as Blocks\(2, 2\)"):
            GroupLasso(model, groups)
    for shape in ((2.0, 2), ("2", 2), (None, 2), (True, 2)):
        with pytest.raises(TrainError, match=r"0 \(24x16\): blocks of .*; needed an m2 that divides m"):
            MagnitudePruning(model, Blocks(*shape), 0.5)
    with pytest.raises(TrainError, match="shrinkage=.*; needed a value such as Lasso"):
        GroupLasso(model, Rows(), shrinkage=Lasso)
    with pytest.raises(TrainError, match="ridge='1'"):
        ElasticGroupLasso(model, Rows(), ridge="1")
    with pytest.raises(TrainError, match=r"weight \(4x4\): a tensor on the meta device; needed values"):
        GroupLasso(nn.Linear(4, 4, device="meta"), Rows())
    with pytest.raises(TrainError, match="where the model belongs"):
        GroupLasso([nn.Linear(2, 2)], Rows())


def test_a_share_that_rounds_up_to_everything_leaves_a_group_of_every_weight() -> None:
    model = mlp(16, 24, 8)
    pruning = MagnitudePruning(model, Rows(), 0.99)
    pruning.step()
    assert pruning.layers() == {"0": (23, 24), "2": (7, 8)}
