"""Owners of weights that no trace can hold, or only in parts, keep their forward."""

from __future__ import annotations

import copy

import models
import pytest
import torch
from oracles import CLOSE
from torch import nn

import kronfx as kx


@pytest.mark.parametrize("model", [models.Optional, models.Branching, models.TwoPaths])
@torch.no_grad()
def test_an_owner_that_no_trace_can_hold_keeps_its_forward(model: type[nn.Module]) -> None:
    """It branches on an optional argument, on a value, on its mode: all of its branches run on factored weights."""
    torch.manual_seed(0)
    original = model().eval()
    factored = kx.factorize(original, rank="full", init="nearest")
    assert isinstance(factored, model)
    for x in (torch.rand(3, 8), -torch.rand(3, 8)):
        torch.testing.assert_close(factored(x), original(x), **CLOSE)
    if model is models.Optional:
        mask = torch.rand(3, 8)
        torch.testing.assert_close(factored(x, mask), original(x, mask), **CLOSE)


@torch.no_grad()
def test_an_owner_folds_in_parts() -> None:
    from kronfx.graph import fold_sites

    torch.manual_seed(0)
    factored = kx.factorize(models.Functional().eval(), rank=2)
    x = torch.randn(2, 18)
    part = fold_sites(copy.deepcopy(factored), {"w1"})
    torch.testing.assert_close(part(x), factored(x), **CLOSE)
    assert set(kx.factors(part)) == {"w2", "fc", "unused"}
    whole = kx.fold(part)
    assert not kx.factors(whole)
    torch.testing.assert_close(whole(x), factored(x), **CLOSE)
    again = kx.factorize(kx.fold(factored), rank="full", init="nearest")
    torch.testing.assert_close(again(x), factored(x), **CLOSE)
    assert set(kx.factors(again)) == set(kx.factors(factored))


@torch.no_grad()
def test_an_owner_is_rewritten_in_parts() -> None:
    torch.manual_seed(0)
    model, x = models.Functional().eval(), torch.randn(2, 18)
    first = kx.factorize(model, rank="full", init="nearest", include=["w1"])
    second = kx.factorize(first, rank="full", init="nearest", include=["w2"])
    assert set(kx.factors(second)) == {"w1", "w2"}
    assert set(kx.factors(first)) == {"w1"}
    torch.testing.assert_close(second(x), model(x), **CLOSE)
    torch.testing.assert_close(first(x), model(x), **CLOSE)
    assert not torch.equal(second.train()(x), second(x)), "no dropout in training"
    torch.testing.assert_close(kx.fold(second).eval()(x), model(x), **CLOSE)
