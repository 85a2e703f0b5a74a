"""A rewritten model trains as it did before: hooks, frozen weights, autocast, gradient checkpointing."""

from __future__ import annotations

import pytest
import torch
from citizens import CASES, built, every_case
from models import attention
from torch import nn
from torch.utils.checkpoint import checkpoint

import kronfx as kx


@every_case
def test_autocast(name: str) -> None:
    model, rewritten, x = built(name)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = model(x)
        found = rewritten(x)
        loss = found.float().square().mean()
    assert found.dtype == wanted.dtype
    tolerance = 60 * torch.finfo(torch.bfloat16).eps
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
    loss.backward()
    for site, factors in kx.factors(rewritten).items():
        if site != "unused":
            for factor in (factors.S, factors.A, factors.B):
                assert factor.grad is not None
                assert factor.grad.dtype == torch.float32
                assert torch.isfinite(factor.grad).all()


@every_case
def test_frozen_stays_frozen(name: str) -> None:
    torch.manual_seed(0)
    model = CASES[name][0]()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    rewritten = kx.factorize(model, rank=1)
    flags = {key: value.requires_grad for key, value in model.named_parameters()}
    for key, parameter in rewritten.named_parameters():
        if key in flags:
            assert parameter.requires_grad == flags[key], key
    frozen = {n.removesuffix(".weight"): flag for n, flag in flags.items()}
    for site, factors in kx.factors(rewritten).items():
        assert {f.requires_grad for f in (factors.S, factors.A, factors.B)} == {frozen[site]}, site
    folded = {key: value.requires_grad for key, value in kx.fold(rewritten).named_parameters()}
    assert set(folded.values()) == {True, False}


def hooked(model: nn.Module, name: str, calls: list[str]) -> None:
    module = model.get_submodule(name)
    module.register_forward_pre_hook(lambda *_: calls.append("before"))
    module.register_forward_hook(lambda _m, _args, out: calls.append("after") or out * 2)
    module.register_forward_hook(lambda _m, _args, _kwargs, _out: calls.append("kwargs"), with_kwargs=True)
    module.register_full_backward_hook(lambda *_: calls.append("backward"))
    module.register_full_backward_pre_hook(lambda *_: calls.append("before backward"))


HOOKS = ["after", "backward", "before", "before backward", "kwargs"]


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("linear", "second"),
        ("functional", "fc"),
        ("furnished", "0"),
        ("convolutions", "2"),
        ("attention", "layers.0.linear1"),
        ("attention", "layers.1"),
    ],
)
def test_hooks_are_kept(name: str, at: str) -> None:
    torch.manual_seed(0)
    model, x, calls = CASES[name][0]().eval(), CASES[name][1](), list[str]()
    hooked(model, at, calls)
    rewritten = kx.factorize(model, rank="full", init="nearest", inplace=True)
    assert kx.factors(rewritten)
    rewritten(x.requires_grad_()).sum().backward()
    assert sorted(calls) == HOOKS
    calls.clear()
    folded = kx.fold(rewritten, inplace=True)
    folded(x).sum().backward()
    assert sorted(calls) == HOOKS


def test_hooks_on_an_attention_are_kept() -> None:
    torch.manual_seed(0)
    model, calls = attention(), list[str]()
    for layer in model.layers:
        layer.self_attn.register_forward_hook(lambda *_: calls.append("after"))
    kx.factorize(model)(torch.randn(2, 5, 16))
    assert calls == ["after", "after"]


@pytest.mark.parametrize("use_reentrant", [True, False])
@every_case
def test_gradient_checkpointing_changes_no_gradient(name: str, use_reentrant: bool) -> None:
    _, rewritten, x = built(name, rank=2, zero_start=None)
    x.requires_grad_()
    slope = torch.randn_like(rewritten(x))
    grads = []
    for y in (rewritten(x), checkpoint(rewritten, x, use_reentrant=use_reentrant)):
        rewritten.zero_grad(set_to_none=True)
        (y * slope).sum().backward()
        grads.append({key: p.grad for key, p in rewritten.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert {f"{site}.S" for site in kx.factors(rewritten)} & grads[0].keys()
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=0, atol=0)
