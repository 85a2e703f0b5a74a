"""A character-level GPT, dense, and the text it learns: what the scripts about it share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F
from download import text_file
from torch import Tensor, nn


class Block(nn.Module):
    """Causal self-attention and a two-layer perceptron, each normalized before and added after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``x [N, T, width] -> [N, T, width]``."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Characters ``[N, T]`` to logits ``[N, T, characters]`` of the next ones; ``T`` is the context."""

    def __init__(self, characters: int, width: int, layers: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(characters, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """``tokens [N, T]``."""
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.places.weight)))


@dataclass(frozen=True)
class Corpus:
    """Two texts as character numbers, cut into windows."""

    training: Tensor
    validation: Tensor
    alphabet: str
    context: int

    def batch(self, text: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``size`` random windows, and the same one character on."""
        starts = torch.randint(len(text) - self.context - 1, (size, 1), generator=generator)
        windows = text[starts + torch.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]

    @torch.no_grad()
    def loss(self, model: nn.Module) -> float:
        """On 256 windows of the validation text, always the same."""
        inputs, wanted = self.batch(self.validation, 256, torch.Generator().manual_seed(1))
        pairs = zip(inputs.split(32), wanted.split(32))
        return sum(float(loss_of(model, x, y)) * len(x) for x, y in pairs) / len(inputs)


def loss_of(model: nn.Module, inputs: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy in nats a character."""
    return F.cross_entropy(model(inputs).flatten(0, 1), wanted.flatten())


def load(path: Path | None, context: int) -> Corpus:
    """The first nine tenths of :func:`download.text_file` for training, the last for validation."""
    text = text_file(path).read_text(encoding="utf-8")
    alphabet = "".join(sorted(set(text)))
    codes = torch.from_numpy(np.searchsorted(np.array(list(alphabet)), np.array(list(text))))
    return Corpus(*codes.split([len(codes) * 9 // 10, len(codes) - len(codes) * 9 // 10]), alphabet, context)


def generate(path: Path, corpus: Corpus, length: int) -> str:
    """Sample text from the ONNX file, in stock onnxruntime; what lies behind a position cannot reach it."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name, random = session.get_inputs()[0].name, np.random.default_rng(0)
    codes = [corpus.alphabet.index("\n")]
    for _ in range(length):
        window = codes[-corpus.context :]
        padded = np.array([window + [0] * (corpus.context - len(window))])
        logits = session.run(None, {name: padded})[0][0, len(window) - 1] / 0.8  # the temperature
        shares = np.exp(logits.astype(np.float64) - logits.max())
        codes.append(int(random.choice(len(shares), p=shares / shares.sum())))
    return "".join(corpus.alphabet[code] for code in codes)
