"""Tiny transformers models from their configurations, random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import nn

from zoo.entry import Entry, Inputs, tokens

VOCABULARY, LENGTH = 96, 7

_IDS: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "use_cache": False,
    **_IDS,
}
_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    **_IDS,
}
_IMAGE: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4}
_EXPERTS: dict[str, Any] = {**_DECODER, "num_experts_per_tok": 2, "head_dim": 8}
# Of their forms of attention and of experts, torch cannot export the fused ones here (torch 2.15).
_EAGER: dict[str, Any] = {"attn_implementation": "eager"}
_BATCHED: dict[str, Any] = {"experts_implementation": "batched_mm"}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10_000.0}
_BOTH: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "use_cache": False,
    **_IDS,
}


def _ids(*names: str) -> Callable[[int], Inputs]:
    return tokens(VOCABULARY, LENGTH, *(names or ("input_ids",)))


def _masked(batch: int) -> Inputs:
    """Token ids, the last two of every row padding."""
    mask = torch.ones(batch, LENGTH, dtype=torch.long)
    mask[:, -2:] = 0
    return {"input_ids": torch.randint(4, VOCABULARY, (batch, LENGTH)), "attention_mask": mask}


def _pixels(batch: int) -> Inputs:
    return {"pixel_values": torch.randn(batch, 3, 32, 32)}


def _captioned(batch: int) -> Inputs:
    """CLIP reads its sentence off at the end token, the last id of each row."""
    ids = torch.randint(4, VOCABULARY, (batch, LENGTH))
    ids[:, -1] = _IDS["eos_token_id"]
    return {"input_ids": ids, "pixel_values": torch.randn(batch, 3, 32, 32)}


def _spoken(batch: int) -> Inputs:
    return {"input_values": torch.randn(batch, 400)}


def _heard(batch: int) -> Inputs:
    return {"input_features": torch.randn(batch, 8, 24), "decoder_input_ids": torch.randint(4, VOCABULARY, (batch, 5))}


def _entry(
    name: str, model: Callable[[Any], nn.Module], config: Callable[[], Any], inputs: Callable[[int], Inputs]
) -> Entry:
    return Entry(f"hf/{name}", "transformers", lambda: model(config()), inputs)


def _clip() -> Any:
    text = {**_ENCODER, "projection_dim": 16}
    vision = {**_IMAGE, "hidden_size": 32, "intermediate_size": 64, "projection_dim": 16}
    return hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def _deberta() -> Any:
    # Read by the model, though the configuration's own signature does not name them.
    unnamed: dict[str, Any] = {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    return hf.DebertaV2Config(**_ENCODER, relative_attention=True, pos_att_type=["p2c", "c2p"], **unnamed)


def _wav2vec2() -> Any:
    return hf.Wav2Vec2Config(
        **_ENCODER,
        conv_dim=(16, 16, 32),
        conv_stride=(4, 4, 2),
        conv_kernel=(8, 4, 3),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4,
        # Masks over time and dropped layers come from the host's random numbers, and leave weights without gradients.
        apply_spec_augment=False,
        layerdrop=0.0,
    )


ENTRIES = (
    _entry("bert", hf.BertForSequenceClassification, lambda: hf.BertConfig(**_ENCODER), _masked),
    _entry("roberta", hf.RobertaForTokenClassification, lambda: hf.RobertaConfig(**_ENCODER), _masked),
    _entry("deberta-v2", hf.DebertaV2ForSequenceClassification, _deberta, _masked),
    _entry(
        "distilbert",
        hf.DistilBertForMaskedLM,
        lambda: hf.DistilBertConfig(
            vocab_size=VOCABULARY, max_position_embeddings=32, dim=32, n_layers=2, n_heads=4, hidden_dim=64
        ),
        _masked,
    ),
    _entry(
        "gpt2",
        hf.GPT2LMHeadModel,
        lambda: hf.GPT2Config(
            vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4, use_cache=False, **_IDS
        ),
        _ids(),
    ),
    _entry("llama", hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**_DECODER), _masked),
    _entry("qwen3", hf.Qwen3ForCausalLM, lambda: hf.Qwen3Config(**_DECODER, head_dim=8), _ids()),
    _entry(
        "opt",
        hf.OPTForCausalLM,
        lambda: hf.OPTConfig(**_ENCODER, ffn_dim=64, word_embed_proj_dim=16, use_cache=False),
        _ids(),
    ),
    _entry(
        "t5",
        hf.T5ForConditionalGeneration,
        lambda: hf.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, use_cache=False, **_EAGER
        ),
        _ids("input_ids", "decoder_input_ids"),
    ),
    _entry(
        "bart",
        hf.BartForConditionalGeneration,
        lambda: hf.BartConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **_BOTH),
        _ids("input_ids", "decoder_input_ids"),
    ),
    _entry(
        "vit",
        hf.ViTForImageClassification,
        lambda: hf.ViTConfig(**_IMAGE, hidden_size=32, intermediate_size=64),
        _pixels,
    ),
    _entry(
        "swin",
        hf.SwinForImageClassification,
        lambda: hf.SwinConfig(
            image_size=32,
            patch_size=2,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            drop_path_rate=0.0,
            **_EAGER,
        ),
        _pixels,
    ),
    _entry("clip", hf.CLIPModel, _clip, _captioned),
    _entry("wav2vec2", hf.Wav2Vec2ForCTC, _wav2vec2, _spoken),
    _entry(
        "whisper",
        hf.WhisperForConditionalGeneration,
        lambda: hf.WhisperConfig(
            vocab_size=VOCABULARY,
            num_mel_bins=8,
            max_source_positions=12,
            max_target_positions=16,
            decoder_start_token_id=0,
            **_BOTH,
        ),
        _heard,
    ),
    _entry(
        "mixtral", hf.MixtralForCausalLM, lambda: hf.MixtralConfig(**_EXPERTS, **_BATCHED, num_local_experts=4), _ids()
    ),
    _entry(
        "qwen3-moe",
        hf.Qwen3MoeForCausalLM,
        lambda: hf.Qwen3MoeConfig(**_EXPERTS, **_BATCHED, num_experts=4, moe_intermediate_size=16),
        _ids(),
    ),
    _entry(
        "gpt-oss",
        hf.GptOssForCausalLM,
        lambda: hf.GptOssConfig(**_EXPERTS, **_BATCHED, num_local_experts=4, rope_parameters=_ROPE),
        _ids(),
    ),
    _entry(
        "mamba",
        hf.MambaForCausalLM,
        lambda: hf.MambaConfig(
            vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, use_cache=False, **_IDS
        ),
        _ids(),
    ),
)
