"""A rewritten model stays a citizen: what people do to models around training and saving works as it did before.

The oracle is the original model: at full rank ``init="nearest"`` reproduces it, and what was not rewritten keeps its
names, its flags and its hooks.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import models
import pytest
import torch
from citizens import CASES, built, by_pickle, by_torch_save, every_case
from models import Furnished, attention
from oracles import CLOSE
from torch import nn

import kronfx as kx
from kronfx.layers import KroneckerLinear, kronecker_layers

ELSEWHERE = """
import pickle, sys
import torch
model, x, wanted = pickle.load(open(sys.argv[1], "rb"))
torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-6)
"""


def test_a_pickle_is_read_in_another_process(tmp_path: Path) -> None:
    """Classes and forwards that the rewriting made are made again there."""
    for build, example in (CASES["functional"], (models.Shared, lambda: torch.randn(5, 16)), CASES["attention"]):
        torch.manual_seed(0)
        model, x = kx.factorize(build().eval(), rank=1, zero_start=None), example()
        file = tmp_path / "model.pkl"
        file.write_bytes(pickle.dumps((model, x, model(x).detach())))
        paths = os.pathsep.join(filter(None, sys.path))
        subprocess.run([sys.executable, "-c", ELSEWHERE, str(file)], check=True, env=os.environ | {"PYTHONPATH": paths})


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": by_pickle,
    "torch.save": by_torch_save,
    "twice": lambda model: copy.deepcopy(by_pickle(copy.deepcopy(model))),
}


def weight_paths(model: nn.Module) -> set[str]:
    """The ``state_dict`` keys that the rewriting takes away: the chosen weights' own."""
    return {key for name in kx.factors(model) for key in (name, f"{name}.weight")}


@every_case
def test_what_is_untouched_keeps_its_names(name: str) -> None:
    model, rewritten, _ = built(name)
    kept = {key: value for key, value in model.state_dict().items() if key not in weight_paths(rewritten)}
    state = rewritten.state_dict()
    assert kept
    assert kept.keys() <= state.keys()
    assert all(torch.equal(state[key], value) for key, value in kept.items())
    added = state.keys() - kept.keys()
    assert {key.rpartition(".")[2] for key in added} == {"S", "A", "B"}
    assert len(added) == 3 * len(kx.factors(rewritten))


@every_case
def test_a_folded_model_has_the_dense_state_dict(name: str) -> None:
    model, rewritten, x = built(name)
    folded = kx.fold(rewritten)
    assert {k: v.shape for k, v in folded.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    dense = CASES[name][0]().eval()
    dense.load_state_dict(folded.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(dense(x), folded(x), **CLOSE)


@pytest.mark.parametrize("how", COPIES)
@every_case
@torch.no_grad()
def test_copies_are_whole_and_apart(name: str, how: str) -> None:
    _, rewritten, x = built(name)
    again = COPIES[how](rewritten)
    assert again.state_dict().keys() == rewritten.state_dict().keys()
    assert [(n, type(m).__name__) for n, m in again.named_modules()] == [
        (n, type(m).__name__) for n, m in rewritten.named_modules()
    ]
    wanted = rewritten(x)
    torch.testing.assert_close(again(x), wanted, rtol=0, atol=0)
    for layer in kronecker_layers(again).values():
        layer.A.mul_(3)
    assert not torch.allclose(again(x), wanted)
    torch.testing.assert_close(rewritten(x), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("state", ["factored", "folded"])
def test_an_owner_keeps_what_it_owns(state: str, how: str) -> None:
    model, rewritten, _ = built("furnished")
    for each in (rewritten, COPIES[how](rewritten)) if state == "factored" else (COPIES[how](kx.fold(rewritten)),):
        owner = each[0]
        assert isinstance(owner, Furnished)
        assert owner.describe() == "32 wide, kept"
        assert owner.bias is None
        assert "scratch" not in each.state_dict()
        assert torch.equal(owner.spare, model[0].spare)
        assert torch.equal(owner.scratch, model[0].scratch)


@every_case
def test_a_copy_knows_its_mode(name: str) -> None:
    _, rewritten, x = built(name)
    for model in (rewritten, copy.deepcopy(rewritten), by_pickle(rewritten)):
        for training in (True, False):
            model.train(training)
            assert {module.training for module in model.modules()} == {training}
        assert torch.equal(model(x), model(x)), "dropout in evaluation"
        if name in ("functional", "furnished", "attention"):
            assert not torch.equal(model.train()(x), model(x)), "no dropout in training"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@every_case
@torch.no_grad()
def test_to_another_dtype(name: str, dtype: torch.dtype) -> None:
    model, rewritten, x = built(name)
    model, rewritten = model.to(dtype), rewritten.half() if dtype == torch.float16 else rewritten.to(dtype)
    assert {t.dtype for t in rewritten.state_dict().values()} == {dtype}
    found, wanted = rewritten(x.to(dtype)), model(x.to(dtype))
    assert found.dtype == dtype
    # Factors, products and outputs of order 1 are each rounded a few times; float64 keeps the float32 SVD's error.
    tolerance = 60 * torch.finfo(dtype).eps if dtype != torch.float64 else 2e-5
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@every_case
def test_a_layer_answers_what_is_asked_of_a_weight(name: str) -> None:
    model, rewritten, _ = built(name)
    dense = dict(model.named_modules())
    for path, layer in rewritten.named_modules():
        if not isinstance(layer, KroneckerLinear) or path not in dense:
            continue
        theirs = dense[path]
        assert (layer.weight.shape, layer.weight.dtype, layer.weight.device) == (
            theirs.weight.shape,
            theirs.weight.dtype,
            theirs.weight.device,
        )
        torch.testing.assert_close(layer.weight, theirs.weight, **CLOSE)
        assert (layer.bias is None) == (theirs.bias is None)
        for size in ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "groups"):
            if hasattr(theirs, size):
                assert getattr(layer, size) == getattr(theirs, size), size
    if name == "attention":
        ours, theirs = rewritten.layers[0].self_attn, model.layers[0].self_attn
        assert isinstance(ours, nn.MultiheadAttention)
        assert ours.in_proj_weight.shape == theirs.in_proj_weight.shape
        assert ours.in_proj_weight.dtype == theirs.in_proj_weight.dtype
        assert ours.in_proj_weight.device == theirs.in_proj_weight.device
        assert ours.embed_dim == theirs.embed_dim


def test_state_goes_from_one_rewritten_model_into_another() -> None:
    _, rewritten, x = built("attention")
    torch.manual_seed(1)
    other = kx.factorize(attention().eval(), rank="full")
    with torch.no_grad():
        assert not torch.allclose(other(x), rewritten(x))
        other.load_state_dict(rewritten.state_dict())
        assert torch.equal(other(x), rewritten(x))
    broken = {key: value for key, value in rewritten.state_dict().items() if not key.endswith("in_proj_weight.S")}
    with pytest.raises(RuntimeError, match="Missing key.*in_proj_weight.S"):
        other.load_state_dict(broken)
