"""Models of transformers, rewritten: they generate, train, save and load as they did."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import CLOSE
from torch import nn

import kronfx as kx

os.environ["HF_HUB_OFFLINE"] = "1"
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
