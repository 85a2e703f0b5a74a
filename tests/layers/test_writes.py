"""What is written into a weight that is computed is refused with the way out, never lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kronfx as kx
from kronfx.errors import WeightError


class Head(nn.Linear):
    """A subclass: it stays, and its weight is computed."""


def computed(kind: str) -> tuple[Any, Callable[[], Tensor]]:
    """A layer, and its weight read anew at each call."""
    torch.manual_seed(0)
    layer = kx.factorize(nn.Sequential({"layer": nn.Linear, "owner": Head}[kind](8, 8)), rank=2)[0]
    return layer, lambda: layer.weight


def _augmented(weight: Tensor) -> None:
    weight.data += 1


def _assigned(weight: Tensor) -> None:
    weight.data = torch.ones(8, 8)


def _indexed(weight: Tensor) -> None:
    weight[0] = 1


def _into(weight: Tensor) -> None:
    torch.add(torch.ones(8, 8), 1, out=weight)


WRITES: dict[str, Callable[[Any], object]] = {
    "normal_": lambda w: nn.init.normal_(w, 0.0, 0.02),
    "xavier": nn.init.xavier_uniform_,
    "kaiming": nn.init.kaiming_uniform_,
    "trunc": nn.init.trunc_normal_,
    "zeros": nn.init.zeros_,
    "orthogonal": nn.init.orthogonal_,
    "clamp_": lambda w: w.clamp_(-1, 1),
    "data.clamp_": lambda w: w.data.clamp_(-1, 1),
    "detach().mul_": lambda w: w.detach().mul_(2),
    "T.add_": lambda w: w.T.add_(1),
    "row": lambda w: w[0].zero_(),
    "copy_": lambda w: w.copy_(torch.ones(8, 8)),
    "data +=": _augmented,
    "data =": _assigned,
    "[0] =": _indexed,
    "out=": _into,
    "requires_grad_": lambda w: w.detach().requires_grad_(False),
    "hook": lambda w: w.register_hook(print),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("kind", ["layer", "owner"])
@torch.no_grad()
def test_a_write_is_refused(kind: str, name: str) -> None:
    layer, weight = computed(kind)
    before = weight().detach().clone()
    if (kind, name) == ("owner", "requires_grad_"):
        pytest.skip("a module's own method: it freezes the factors")
    with pytest.raises(WeightError, match=r"^weight: .* computed from its factors; needed .*; call kx.fold"):
        WRITES[name](weight())
    assert torch.equal(weight().detach(), before)
    assert layer is not None


def test_an_assignment_is_refused_or_holds() -> None:
    layer, _ = computed("layer")
    with pytest.raises(WeightError, match="an assignment"):
        layer.weight = nn.Parameter(torch.ones(8, 8))
    owner, _ = computed("owner")
    owner.weight = nn.Parameter(torch.ones(8, 8))
    assert torch.equal(owner(torch.ones(1, 8)), 8 + owner.bias.expand(1, 8))


def test_reading_is_as_ever() -> None:
    for kind in ("layer", "owner"):
        layer, weight = computed(kind)
        W = weight().detach().clone()
        assert type(W.abs()) is Tensor
        assert type(weight() * 2) is Tensor
        torch.testing.assert_close(weight().detach(), nn.Parameter(W))
        assert torch.equal(torch.ones(8, 8).add_(weight().detach()), W + 1)
        (weight() ** 2).sum().backward()
        assert kx.factors(nn.Sequential(layer))["0"].S.grad.any()


@pytest.mark.parametrize("strict", [True, False])
def test_a_dense_state_dict_is_refused(strict: bool) -> None:
    dense = nn.Sequential(nn.Linear(8, 8), Head(8, 8))
    factored = kx.factorize(dense, rank=1)
    for key in ("0.weight", "1.weight"):
        with pytest.raises(
            RuntimeError, match=f"{key} is a dense weight in this state dict and factored in this model"
        ):
            factored.load_state_dict(dense.state_dict(), strict=strict)
    kx.fold(factored).load_state_dict(dense.state_dict())


def test_parameters_are_drawn_anew() -> None:
    model = kx.factorize(nn.Sequential(nn.Linear(8, 8), nn.Conv2d(8, 8, 3), Head(8, 8)), rank=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for layer in (model[0], model[1], model[2].weight):
        layer.reset_parameters()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if not name.endswith("S")} - {"2.bias"}


def test_the_nearest_factors_of_another_weight() -> None:
    for kind in ("layer", "owner"):
        torch.manual_seed(0)
        model = kx.factorize(nn.Sequential({"layer": nn.Linear, "owner": Head}[kind](8, 8)), rank="full")
        W = torch.randn(8, 8)
        (model[0] if kind == "layer" else model[0].weight).set_nearest(W)
        torch.testing.assert_close(model[0].weight.detach(), W, rtol=1e-4, atol=1e-5)


def test_autocast_does_not_reach_the_weights(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16), Head(16, 16)), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        factored = kx.factorize(model, rank="full", init="nearest")
        folded = kx.fold(factored)
        kx.export_onnx(factored, tmp_path / "model.onnx", x, tune=False)
        again = kx.load(nn.Sequential(nn.Linear(16, 16), Head(16, 16)), kx.save(factored, tmp_path / "saved"))
        assert factored[0].weight.dtype == factored[1].weight.formed().dtype == torch.float32
    for found in (factored, folded, again):
        torch.testing.assert_close(found(x), model(x), rtol=1e-4, atol=1e-5)


def test_an_adapter_merges_into_what_was_folded() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(nn.Sequential(nn.Linear(16, 16)), peft.LoraConfig(target_modules=["0"], r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    x = torch.randn(3, 16)
    factored = kx.factorize(adapted, rank="full", init="nearest", include="*base_layer")
    torch.testing.assert_close(kx.fold(factored).merge_and_unload()(x), adapted(x), rtol=1e-4, atol=1e-4)
    with pytest.raises(WeightError):
        factored.merge_and_unload()
