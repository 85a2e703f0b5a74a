"""What lies between the two products, where it is large: never kept, never there as a whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import dense
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kronfx import cost
from kronfx.layers import KroneckerLinear, portions
from kronfx.records import Evaluation, KroneckerShape

side = st.integers(1, 7)
shapes = st.builds(KroneckerShape, side, side, side, side)
evaluations = pytest.mark.parametrize("evaluation", ["a_first", "b_first"])


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions at any size."""
    monkeypatch.setattr(cost, "KEPT", 0)


@evaluations
def test_what_lies_between_is_not_kept(evaluation: Evaluation) -> None:
    layer, x = KroneckerLinear(KroneckerShape(16, 16, 8, 8), 4, evaluation), torch.randn(512, 128, requires_grad=True)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert max(kept) == x.numel()
    assert sum(kept) == x.numel() + sum(factor.numel() for factor in (layer.S, layer.A, layer.B))


@evaluations
@pytest.mark.parametrize("rows", [127, 128, 129, 256, 257, 800])
def test_every_row_is_in_one_portion(evaluation: Evaluation, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size from which rows are turned, and beside it; the last portion is smaller, or not."""
    monkeypatch.setattr(portions, "PORTION", 1)
    layer = KroneckerLinear(KroneckerShape(3, 5, 4, 2), 2, evaluation, bias=False, dtype=torch.float64)
    x = torch.randn(rows, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ dense(layer.S, layer.A, layer.B).T)


@evaluations
@given(shape=shapes, rank=st.integers(1, 4), rows=st.integers(0, 70), seed=st.integers(0, 2**16))
@settings(deadline=None)
def test_gradients_are_those_of_the_dense_product(
    evaluation: Evaluation, shape: KroneckerShape, rank: int, rows: int, seed: int
) -> None:
    torch.manual_seed(seed)
    layer = KroneckerLinear(shape, rank, evaluation, bias=False, dtype=torch.float64)
    x, dy = (torch.randn(rows, size, dtype=torch.float64) for size in (shape.n, shape.m))
    x.requires_grad_()
    wanted = (x, layer.S, layer.A, layer.B)
    found = torch.autograd.grad(layer(x), wanted, dy)
    expected = torch.autograd.grad(x @ dense(layer.S, layer.A, layer.B).T, wanted, dy)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_small_ones_are_left_to_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = KroneckerLinear(KroneckerShape(4, 4, 4, 4), 2, "a_first"), torch.randn(8, 16)
    for limit, wanted in ((8 * 4 * 4, True), (8 * 4 * 4 + 1, False)):  # twice as many are kept of few rows
        monkeypatch.setattr(cost, "KEPT", limit)
        assert portions.is_worth_turning(x, layer.factors, "a_first") is wanted
    with torch.no_grad():  # torch would take a product a row
        assert portions.is_worth_turning(x, layer.factors, "a_first")
