"""torch's own transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.entry import Entry, Inputs

_LAYER: dict[str, Any] = {"dropout": 0.1, "batch_first": True}


def _sequences(*names: str) -> Callable[[int], Inputs]:
    return lambda batch: {name: torch.randn(batch, 6, 32) for name in names}


def _padded(batch: int) -> Inputs:
    """The last two positions of every sequence are padding."""
    mask = torch.zeros(batch, 6, dtype=torch.bool)
    mask[:, -2:] = True
    return {"src": torch.randn(batch, 6, 32), "padding": mask}


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, **_LAYER)
    return nn.TransformerEncoder(layer, 2)


class Causal(nn.Module):
    """Its decoder sees no later position. The mask is built, and said to be causal, where torch need not guess."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(32, 4, 1, 1, 64, **_LAYER)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.shape[1])
        y: Tensor = self.transformer(src, tgt, tgt_mask=mask, tgt_is_causal=True)
        return y


class PaddedEncoder(nn.Module):
    """An encoder that leaves padding out: what it answers there differs between torch's own fast and slow paths."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _encoder()

    def forward(self, src: Tensor, padding: Tensor) -> Tensor:
        y: Tensor = self.encoder(src, src_key_padding_mask=padding)
        return y.masked_fill(padding[..., None], 0.0)


class Attention(nn.Module):
    """Cross-attention with separate projections: queries, keys and values of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, kdim=24, vdim=16, batch_first=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        y, weights = self.attention(query, key, value)
        return y, weights


def _attended(batch: int) -> Inputs:
    return {
        "query": torch.randn(batch, 5, 32),
        "key": torch.randn(batch, 6, 24),
        "value": torch.randn(batch, 6, 16),
    }


def _entry(name: str, build: Callable[[], nn.Module], inputs: Callable[[int], Inputs]) -> Entry:
    return Entry(f"torch/{name}", "torch", build, inputs)


ENTRIES = (
    _entry("Transformer", lambda: nn.Transformer(32, 4, 1, 1, 64, **_LAYER), _sequences("src", "tgt")),
    _entry("Transformer, causal", Causal, _sequences("src", "tgt")),
    _entry("TransformerEncoder", _encoder, _sequences("src")),
    _entry("TransformerEncoder, padded", PaddedEncoder, _padded),
    _entry("MultiheadAttention, k and v of their own width", Attention, _attended),
)
