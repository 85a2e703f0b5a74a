"""What the zoo knows of a model: how to build it, what to feed it, and what its outputs are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs = dict[str, Tensor] | tuple[Tensor, ...]
Outputs = Any  # whatever a model answers: a tensor, a tuple, a transformers ModelOutput


def tensors(outputs: Outputs) -> list[Tensor]:
    """Every tensor of an answer, in torch's own order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def call(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The tensors that a model answers to one batch."""
    return tensors(model(**inputs) if isinstance(inputs, Mapping) else model(*inputs))


def distance(outputs: list[Tensor]) -> Tensor:
    """The mean squared distance of every floating output to a fixed random target, summed.

    A target, because the square of a normalized output alone hardly depends on any weight.
    """
    generator = torch.Generator().manual_seed(7)
    floating = [y for y in outputs if y.is_floating_point() and y.requires_grad]
    return torch.stack([F.mse_loss(y, torch.randn(y.shape, generator=generator)) for y in floating]).sum()


@dataclass(frozen=True)
class Entry:
    """A model of the zoo: ``inputs(batch)`` is a batch of that size, dim 0 of every batched tensor."""

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs]
    loss: Callable[[list[Tensor]], Tensor] = distance

    def model(self, seed: int = 0) -> nn.Module:
        """A fresh model whose every weight matters, in eval mode; the same weights for the same seed."""
        torch.manual_seed(seed)
        return lively(self.build()).eval()

    def batch(self, size: int) -> Inputs:
        """A batch of that size, the same for the same size."""
        torch.manual_seed(size)
        return self.inputs(size)


@torch.no_grad()
def lively(model: nn.Module) -> nn.Module:
    """Redraw what starts near zero, so that no branch of the model is switched off.

    Initializations such as std 0.02, a layer scale of 1e-6 or a zero gamma would let an error in a layer vanish from
    the outputs. Weights are redrawn with std ``1 / sqrt(fan in)``; vectors get noise of std 0.1.
    """
    for parameter in model.parameters():
        if not parameter.is_floating_point() or parameter.numel() == 0:
            continue
        if parameter.ndim < 2:
            parameter.add_(0.1 * torch.randn_like(parameter))
            continue
        std = 1 / math.sqrt(parameter[0].numel())
        if parameter.std(correction=0) < 0.5 * std:
            parameter.normal_(std=std)
    return model


def image(size: int, channels: int = 3) -> Callable[[int], Inputs]:
    """Batches of square images, as the one positional argument."""
    return lambda batch: (torch.randn(batch, channels, size, size),)


def tokens(vocabulary: int, length: int, *names: str) -> Callable[[int], Inputs]:
    """Batches of token ids under each of the names; the ids below 4 are left to special tokens."""
    return lambda batch: {name: torch.randint(4, vocabulary, (batch, length)) for name in names}
