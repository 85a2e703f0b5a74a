"""Group lasso: proximal steps against a numerical minimum and in closed form, on groups that tile a weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import mlp
from scipy.optimize import minimize
from torch import nn

from kronfx.train import Blocks, Columns, Elastic, ElasticGroupLasso, Entries, GroupLasso, Lasso, Rows
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
