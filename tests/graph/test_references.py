"""Whoever holds a layer or a weight goes on holding what runs: lists, partials, closures, compiled wrappers."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kronfx as kx

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Record:
    layer: Any


# How a model may hold its layer ``fc`` besides as a child, and how it calls what it holds.
WAYS: dict[str, tuple[Callable[[nn.Module], object], Callable[[Any, Tensor], Tensor]]] = {
    "list": (lambda m: [m.fc], lambda h, x: h[0](x)),
    "nested": (lambda m: {"a": [(1, {"b": m.fc})]}, lambda h, x: h["a"][0][1]["b"](x)),
    "named tuple": (lambda m: Pair(m.fc, 2), lambda h, x: h.first(x)),
    "set": (lambda m: {m.fc}, lambda h, x: next(iter(h))(x)),
    "key": (lambda m: {m.fc: 1}, lambda h, x: next(iter(h))(x)),
    "partial": (lambda m: partial(m.fc), lambda h, x: h(x)),
    "method": (lambda m: m.fc.forward, lambda h, x: h(x)),
    "record": (lambda m: Record(m.fc), lambda h, x: h.layer(x)),
    "attribute": (lambda m: m.fc, lambda h, x: h(x)),
    "weight": (lambda m: [m.fc.weight], lambda h, x: F.linear(x, h[0])),
    "compiled": (lambda m: torch.compile(m.fc, backend="eager"), lambda h, x: h(x)),
}


class Holder(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.fc = way, nn.Linear(8, 8, bias=False)
        object.__setattr__(self, "held", WAYS[way][0](self))

    def forward(self, x: Tensor) -> Tensor:
        return WAYS[self.way][1](self.held, x)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_held_is_what_runs(way: str, inplace: bool) -> None:
    torch.manual_seed(0)
    model, x = Holder(way), torch.randn(3, 8)
    wanted = model(x).detach()
    factored = kx.factorize(model, rank="full", init="nearest", inplace=inplace)
    torch.testing.assert_close(factored(x), wanted, rtol=1e-4, atol=1e-5)
    factored(x).sum().backward()
    assert {name.rpartition(".")[2] for name, p in factored.named_parameters() if p.grad is not None} == {*"SAB"}
    with torch.no_grad():
        kx.factors(factored)["fc"].S.zero_()
        assert not factored(x).any()
    folded = kx.fold(factored, inplace=inplace)
    folded(x).sum().backward()
    assert [name for name, p in folded.named_parameters() if p.grad is not None] == ["fc.weight"]


def test_a_closure_follows_in_place() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(3, 8)
    layer = model[0]
    model.again = lambda x: layer(x)
    factored = kx.factorize(model, rank=1, inplace=True)
    assert torch.equal(factored.again(x), factored(x))


def test_patched_and_furnished_layers_stay_themselves() -> None:
    class Tripled(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return 3 * super().__call__(x)

    class Headed(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.register_buffer("steps", torch.zeros(()))

        def about(self) -> str:
            return "a head"

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), Tripled(8, 8), Headed(), nn.Linear(8, 8))
    model[0].forward = MethodType(lambda self, x: 2 * F.linear(x, self.weight, self.bias), model[0])
    model[3].temperature = 0.5
    x = torch.randn(3, 8)
    factored = kx.factorize(model, rank="full", init="nearest")
    torch.testing.assert_close(factored(x), model(x), rtol=1e-4, atol=1e-4)
    assert [type(layer).__name__ for layer in factored] == ["Linear", "Tripled", "Headed", "KroneckerLinear"]
    assert (factored[2].about(), factored[2].steps.item(), factored[3].temperature) == ("a head", 0.0, 0.5)
    assert set(kx.factors(factored)) == {"0", "1", "2", "3"}
    assert kx.fold(factored).state_dict().keys() == model.state_dict().keys()


def test_a_function_in_a_copy_calls_the_copy() -> None:
    """A forward that was patched with a closure over the old one, and a lambda: ``copy.deepcopy`` shares both."""

    def doubled(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: 2 * forward(x)

    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), torch.randn(3, 8)
    model[0].forward = doubled(model[0].forward)
    model.last = lambda x: model[1](x)
    factored = kx.factorize(model, rank="full", init="nearest")
    torch.testing.assert_close(factored(x), model(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(factored.last(x), model.last(x), rtol=1e-4, atol=1e-4)
    (factored(x) + factored.last(x)).sum().backward()
    assert all(p.grad is not None for p in factored.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_no_class_of_anybodys_is_made_or_told() -> None:
    known = []

    class Registered(nn.Module):
        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            known.append(cls)

    class Owner(Registered):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    assert type(kx.factorize(Owner(), rank=1)) is Owner
    assert known == [Owner]


def test_names_are_the_users() -> None:
    class Compared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kronecker = nn.ModuleDict({"fc": nn.Linear(16, 16), "weight": nn.Linear(16, 16)})
            self.fc, self.w = nn.Linear(16, 16), nn.Parameter(torch.randn(16, 16))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.kronecker["weight"](self.kronecker["fc"](x))) @ self.w

    model, sites = Compared(), {"kronecker.fc", "kronecker.weight", "fc", "w"}
    assert {choice.site.name for choice in kx.plan(model, rank=1).choices} == sites
    factored = kx.factorize(model, rank=1)
    assert set(kx.factors(factored)) == sites == {layer.site for layer in kx.inspect(kx.fold(factored)).layers}


def test_handles_and_state_dict_hooks_stay_good() -> None:
    calls: list[int] = []

    def renamed(_module: nn.Module, state: dict[str, Tensor], prefix: str, _: object) -> None:
        if prefix + "weight" in state:
            state[prefix + "kernel"] = state.pop(prefix + "weight")

    model, x = nn.Sequential(nn.Linear(8, 8)), torch.randn(2, 8)
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    model[0].register_state_dict_post_hook(renamed)
    dense_keys = list(model.state_dict())
    for step in (partial(kx.factorize, rank=1), kx.fold):
        model = step(model, inplace=True)
        model(x)
    assert len(calls) == 2
    handle.remove()
    model(x)
    assert len(calls) == 2
    assert sorted(model.state_dict()) == sorted(dense_keys)


def test_hooks_and_marks_of_a_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[0].weight.no_weight_decay = True
    frozen = torch.ones(8, 1)
    frozen[:4] = 0
    model[1].weight.register_hook(lambda gradient: gradient * frozen)
    assert "gradient hook" in kx.plan(model, rank=1).refusals[0].reason
    factored = kx.factorize(model, rank=1)
    assert all(p.no_weight_decay for p in factored[0].parameters())
    factored(torch.randn(3, 8)).sum().backward()
    assert not factored[1].weight.grad[:4].any()
    assert factored[1].weight.grad[4:].any()
