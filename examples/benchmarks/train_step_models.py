"""What the training benchmark trains: single layers and models, each with its input, its block shape and its zeros."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import timm
import torch
from inference_models import Encoder, Shape, lenet5, one_layer
from torch import Tensor, nn

import kronfx as kx
from kronfx.layers import kronecker_layers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from char_gpt import GPT

Block = tuple[int, int]
CHARACTERS, CONTEXT = 65, 64  # of the character GPT


@dataclass(frozen=True)
class Task:
    """What is trained: a layer, or a ``whole`` model, whose step ends with the optimizer's.

    ``shape`` is the input's, ``rows`` how many rows the linear maps see then; ``characters`` are how many the input
    chooses from where it is text.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: Shape
    rows: int
    whole: bool = True
    characters: int = 0

    def input(self, device: torch.device) -> Tensor:
        """Random; where it has a gradient, that is computed too, as inside a network."""
        if self.characters:
            return torch.randint(self.characters, self.shape, device=device)
        return torch.randn(self.shape, device=device, requires_grad=not self.whole)

    def blocks(self, block: Block) -> dict[str, Block]:
        """The block of every linear map that is factored, by name.

        Of a layer the sizes nearest to those asked for that divide it. In a model the maps that the blocks do not tile
        stay dense for all contenders.
        """
        with torch.device("meta"):
            layers = {name: layer for name, layer in self.build().named_modules() if isinstance(layer, nn.Linear)}
        sizes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
        if not self.whole:
            return {name: (_divisor(m, block[0]), _divisor(n, block[1])) for name, (m, n) in sizes.items()}
        return {name: block for name, (m, n) in sizes.items() if not (m % block[0] or n % block[1])}


def _divisor(size: int, wanted: int) -> int:
    """The divisor of ``size`` that is nearest to ``wanted``, the larger one of two."""
    divisors = (d for d in range(1, size + 1) if size % d == 0)
    return min(divisors, key=lambda d: (abs(d - wanted), -d))


def layer(m: int, n: int, rows: int) -> Task:
    """``W [m, n]`` at so many rows."""
    return Task(f"{m}x{n}", partial(one_layer, m, n), (rows, n), rows, whole=False)


def gpt() -> nn.Module:
    """The character GPT of ``examples/char_gpt.py``, 4 layers 768 wide."""
    return GPT(CHARACTERS, 768, 4, 12, CONTEXT)


SIZES = {f"{m}x{n}": (m, n) for m, n in ((768, 768), (3072, 768), (768, 3072), (4096, 4096), (300, 784))}
MODELS = {
    task.name: task
    for task in (
        Task("encoder", Encoder, (8, 128, 768), 1024),
        Task("encoder-p0", partial(Encoder, dropout=0.0), (8, 128, 768), 1024),
        Task("vit-small", partial(timm.create_model, "vit_small_patch16_224"), (4, 3, 224, 224), 788),
        Task("lenet5", lenet5, (128, 1, 28, 28), 128),
        Task("char-gpt", gpt, (16, CONTEXT), 16 * CONTEXT, characters=CHARACTERS),
    )
}


@dataclass(frozen=True)
class Case:
    """A task at one block shape and rank, with a share ``zero`` of its blocks zero."""

    task: Task
    block: Block
    rank: int
    zero: float

    @property
    def possible(self) -> bool:
        """Whether there is a map to factor, and none whose blocks are too few, or too small, for the rank."""
        return bool(self.task.blocks(self.block)) and self.rank <= self.block[0] * self.block[1]

    @property
    def block_name(self) -> str:
        """``m2 x n2``, as they fit."""
        m2, n2 = self.block if self.task.whole else next(iter(self.task.blocks(self.block).values()))
        return f"{m2}x{n2}"

    def start(self) -> nn.Module:
        """The factored model that all contenders are made of: the same weights, zeros and rounding for everyone."""
        torch.manual_seed(0)
        blocks = self.task.blocks(self.block)
        model = kx.factorize(
            self.task.build(),
            include=list(blocks),
            block=blocks,
            rank=self.rank,
            rows=self.task.rows,
            zero_start=None,  # a map at zero has no gradients to compare
            inplace=True,
        )
        for each in kronecker_layers(model).values():
            blocks_of_W = each.S.detach().view(-1)
            blocks_of_W[torch.randperm(len(blocks_of_W))[: round(self.zero * len(blocks_of_W))]] = 0
        return model
