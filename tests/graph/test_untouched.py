"""Planning and factorizing a copy leave a model bit for bit as it was, whatever its forward does to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo import FAMILIES, entries, installed

import kronfx as kx


def state(model: nn.Module) -> dict[str, Any]:
    """Everything that can be seen of a model and of the generators: tensors by value, the rest by what it prints."""
    seen: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate()[1],
        "grad": torch.is_grad_enabled(),
    }
    seen["numpy"] = torch.from_numpy(np.random.get_state()[1].astype(np.int64))
    for path, module in model.named_modules(remove_duplicate=False):
        for name, value in {**vars(module), **module._parameters, **module._buffers}.items():
            if name not in ("_parameters", "_buffers", "_modules"):
                seen[f"{path}.{name}"] = value.clone() if isinstance(value, Tensor) else repr(value)
        seen[f"{path}:"] = type(module), [id(child) for child in module.children()], list(vars(module))
    return seen


def unchanged(model: nn.Module, **options: Any) -> None:
    before = state(model)
    plan = kx.plan(model, rank="full", untie=True)
    if plan.choices:
        kx.factorize(model, plan, init="nearest", **options)
    after = state(model)
    assert before.keys() == after.keys()
    for name, value in before.items():
        same = torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        assert same, name


def _cases() -> list[Any]:
    found = [family for family in FAMILIES if installed(family)]
    return [pytest.param(entry, id=entry.name) for family in found for entry in entries(family)]


@pytest.mark.parametrize("entry", _cases())
@pytest.mark.filterwarnings("ignore")
def test_the_zoo_is_left_as_it_was(entry: Any) -> None:
    unchanged(entry.model())


# What a forward may do besides computing, as methods of the module that follows.
DEEDS: dict[str, Callable[[Any, Tensor], object]] = {
    "counts": lambda self, _: setattr(self, "calls", self.calls + 1),
    "counts in a buffer": lambda self, _: self.steps.add_(1),
    "keeps its input": lambda self, x: setattr(self, "last", x),
    "appends": lambda self, x: self.log.append(x),
    "caches": lambda self, x: self.cache.setdefault("first", x.detach()),
    "sets statistics": lambda self, x: self.mean.copy_(x.detach().mean(0)),
    "branches on a buffer": lambda self, _: self.ready.fill_(True) if not self.ready else None,
    "draws": lambda _self, _: (torch.rand(2), random.random(), np.random.rand()),
    "switches gradients off": lambda _self, _: torch.set_grad_enabled(False),
    "registers": lambda self, _: self.register_buffer("late", torch.ones(2)),
    "makes a constant": lambda _self, x: x * torch.tensor(0.5),
    "fails": lambda _self, _: 1 / 0,
    "switches its mode": lambda self, _: self.train(not self.training),
    "touches its child": lambda self, x: setattr(self.child, "marked", x),
}


class Deeds(nn.Module):
    def __init__(self, names: list[str], transposed: bool) -> None:
        super().__init__()
        self.w, self.child = nn.Parameter(torch.randn(8, 8)), nn.Linear(8, 8)
        self.names, self.transposed = names, transposed
        self.calls, self.last, self.log, self.cache = 0, None, [], {}
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        for name in self.names:
            DEEDS[name](self, x)
        return self.child(F.linear(x, self.w) if self.transposed else x @ self.w)


@given(st.lists(st.sampled_from(sorted(DEEDS)), max_size=5), st.booleans(), st.booleans())
def test_whatever_a_forward_does_is_not_done(names: list[str], transposed: bool, training: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Deeds(names, transposed)).train(training)
    grad = torch.is_grad_enabled()
    unchanged(model)
    assert torch.is_grad_enabled() == grad


def test_what_runs_is_what_was_written() -> None:
    """Contexts, attributes set later, coins: none of them is frozen by the look that planning took."""

    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fixed, self.out = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 8))
            self.scale = 1.0

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                code = x @ self.fixed
            with torch.autocast("cpu", enabled=False):
                y = F.linear((x + code).float(), self.out)
            return y * self.scale * (1.0 if random.random() < 0.5 else -1.0)

    torch.manual_seed(0)
    model, x = Written(), torch.randn(3, 8)
    factored = kx.factorize(model, rank="full", init="nearest")
    model.scale = factored.scale = 0.25
    signs = set()
    for seed in range(8):
        random.seed(seed)
        with torch.autocast("cpu", torch.bfloat16):
            wanted = model(x)
            random.seed(seed)
            found = factored(x)
        assert found.dtype == wanted.dtype
        signs.add(bool(wanted[0, 0] > 0))
        # The first product is in bfloat16, by W or by its factors.
        torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)
    assert len(signs) == 2
    factored(x).sum().backward()
    assert {name for name, p in factored.named_parameters() if p.grad is None} == {"fixed.S", "fixed.A", "fixed.B"}
