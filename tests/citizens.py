"""Models of every kind, rewritten, for what people do to models."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import models
import pytest
import torch
from torch import Tensor, nn

import kronfx as kx

Case = tuple[Callable[[], nn.Module], Callable[[], Tensor]]
CASES: dict[str, Case] = {
    "linear": (models.Odd, lambda: torch.randn(4, 37)),
    "functional": (models.Functional, lambda: torch.randn(4, 3, 18)),
    "furnished": (models.furnished, lambda: torch.randn(4, 24)),
    "convolutions": (models.convolutions, lambda: torch.randn(2, 3, 6, 6)),
    "attention": (models.attention, lambda: torch.randn(2, 5, 16)),
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
