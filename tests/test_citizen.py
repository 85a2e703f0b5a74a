"""A rewritten model stays a citizen: what people do to models around training and saving works as it did before.

The oracle is the original model: at full rank ``init="nearest"`` reproduces it, and what was not rewritten keeps its
names, its flags and its hooks.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import kronfx as kx
from kronfx.layers import KroneckerLinear, kronecker_layers

os.environ["HF_HUB_OFFLINE"] = "1"

# Float32 factors from an SVD and two products: about 1e-6 a layer, relative to the outputs, which are of order 1.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


class Furnished(nn.Module):
    """An owner with everything a module can own besides its weight: state, no state, children, words, methods."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(32, 24) / 5)
        self.register_parameter("bias", None)
        self.register_buffer("scale", torch.rand(32) + 1)
        self.register_buffer("scratch", torch.ones(32), persistent=False)
        self.spare = nn.Parameter(torch.randn(3))
        self.out = nn.Linear(32, 32)
        self.width = 32
        self._secret = "kept"

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.dropout(F.linear(x, self.w, self.bias) * self.scale * self.scratch, 0.2, self.training))

    def describe(self) -> str:
        return f"{self.width} wide, {self._secret}"


def furnished() -> nn.Module:
    return nn.Sequential(Furnished())


def attention() -> nn.Module:
    """Its packed projection is read by an owner that keeps its forward."""
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True), 2)


def convolutions() -> nn.Module:
    """Kernels, a stride, padding, and a linear head."""
    first, second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, bias=False)
    return nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(32, 10))


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor]]
CASES: dict[str, Case] = {
    "linear": (models.Odd, lambda: torch.randn(4, 37)),
    "functional": (models.Functional, lambda: torch.randn(4, 3, 18)),
    "furnished": (furnished, lambda: torch.randn(4, 24)),
    "convolutions": (convolutions, lambda: torch.randn(2, 3, 6, 6)),
    "attention": (attention, lambda: torch.randn(2, 5, 16)),
}
every_case = pytest.mark.parametrize("name", CASES)


def built(name: str, **options: Any) -> tuple[nn.Module, nn.Module, Tensor]:
    """The model, its rewriting and an input, in evaluation mode."""
    torch.manual_seed(0)
    model = CASES[name][0]().eval()
    return model, kx.factorize(model, **(options or {"rank": "full", "init": "nearest"})), CASES[name][1]()


def by_pickle(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))  # type: ignore[no-any-return]


def by_torch_save(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


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
    assert {f"{site}.S" for site in kx.factors(rewritten)} & {key.replace(".kronecker", "") for key in grads[0]}
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=0, atol=0)


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


transformers = pytest.importorskip("transformers")


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 64, "n_positions": 32}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=None)).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    more = {"num_key_value_heads": 1, "vocab_size": 64, "max_position_embeddings": 32, "eos_token_id": None}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **more)).eval()


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def language_model(request: pytest.FixtureRequest) -> nn.Module:
    return request.param()  # type: ignore[no-any-return]


TOKENS = torch.arange(10).reshape(2, 5)


def test_generate_writes_the_same_tokens(language_model: Any) -> None:
    rewritten = kx.factorize(language_model, rank="full", init="nearest")
    assert len(kx.factors(rewritten)) >= 8
    how = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(TOKENS), "pad_token_id": 0}
    wanted = language_model.generate(TOKENS, **how)
    assert torch.equal(rewritten.generate(TOKENS, **how), wanted)
    assert torch.equal(kx.fold(rewritten).generate(TOKENS, **how), wanted)
    assert rewritten.generate(TOKENS, num_beams=2, **how).shape == wanted.shape


def test_gradient_checkpointing_of_transformers(language_model: Any) -> None:
    rewritten = kx.factorize(language_model, rank=2, zero_start=None)  # at zero, what comes before has no gradient yet
    losses, grads = [], []
    for enabled in (False, True):
        if enabled:
            getattr(rewritten, "activation_checkpointing_enable", rewritten.gradient_checkpointing_enable)()
        model = rewritten.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.zero_grad(set_to_none=True)
        loss = model(TOKENS, labels=TOKENS, use_cache=False).loss
        loss.backward()
        losses.append(loss.detach())
        grads.append({key: p.grad.clone() for key, p in model.named_parameters()})
    assert torch.equal(losses[0], losses[1])
    for key, grad in grads[0].items():
        assert grad.any(), key
        torch.testing.assert_close(grads[1][key], grad, rtol=0, atol=0)


def test_a_folded_model_is_a_pretrained_one(language_model: Any, tmp_path: Path) -> None:
    folded = kx.fold(kx.factorize(language_model, rank=2, zero_start=None))
    folded.save_pretrained(tmp_path)
    again, report = type(language_model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(TOKENS).logits, folded(TOKENS).logits, **CLOSE)


def test_a_factored_model_saves_and_reads_its_own_state(language_model: Any, tmp_path: Path) -> None:
    plan = kx.plan(language_model, rank=2, zero_start=None)
    factored = kx.factorize(language_model, plan)
    factored.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    written = load_file(tmp_path / "model.safetensors")
    other = kx.factorize(language_model, plan)
    missing, unexpected = other.load_state_dict(written, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}, "tied: written once"
    with torch.no_grad():
        assert torch.equal(other(TOKENS).logits, factored(TOKENS).logits)
