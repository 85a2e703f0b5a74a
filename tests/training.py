"""Models in training, and the loops of the documentation around them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from models import mlp
from torch import Tensor, nn

import kronfx as kx
from kronfx.train import Blocks, BlockSparsity, GroupLasso, MagnitudePruning, Stepped
from kronfx.train.penalties.penalty import Penalty

LR = 0.02


def three_layers(seed: int = 0) -> nn.Module:
    """Three layers of 24, 36 and 12 blocks, of sizes that differ."""
    torch.manual_seed(seed)
    model = kx.factorize(mlp(16, 24, 24, 8), rank=2, block=(4, 4))
    for factors in kx.factors(model).values():
        nn.init.uniform_(factors.S, 0.2, 1.0)
    return model


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 16, generator=generator), torch.randn(8, 8, generator=generator)


def backward(model: nn.Module, step: int) -> None:
    x, y = batch(step)
    (model(x) - y).square().mean().backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, penalty: Penalty, steps: range) -> None:
    """The loop of the documentation."""
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        penalty.step()


def idle(optimizer: torch.optim.Optimizer, penalty: Penalty, steps: int) -> None:
    """Steps of an optimizer that has no gradient."""
    for _ in range(steps):
        optimizer.step()
        penalty.step()


def assert_said_once(caught: list[warnings.WarningMessage], text: str) -> None:
    assert [text in str(warning.message) for warning in caught] == [True]


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def build(kind: str, model: nn.Module, optimizer: torch.optim.Optimizer | None, **options: Any) -> Penalty:
    if kind == "factored":
        return BlockSparsity(model, optimizer=optimizer, **options)
    if kind == "lasso":
        return GroupLasso(model, Blocks(4, 4), optimizer=optimizer, **options)
    return MagnitudePruning(model, Blocks(4, 4), Stepped(0.0, 0.2, every=4, end=0.6), optimizer)


def model_of(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return three_layers() if kind == "factored" else mlp(16, 24, 24, 8)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=LR)


BLOCKS = [(2, 2), (4, 4), (8, 8)]


def with_candidates(
    rank: int = 1, blocks: list[tuple[int, int]] = BLOCKS, seed: int = 0, dtype=torch.float32
) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, 16, dtype=dtype))
    return kx.factorize(model, rank=rank, block=blocks)


def teacher(block: tuple[int, int], seed: int) -> Tensor:
    """``W [16, 16]``, one Kronecker product with this block shape, of norm 4."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.kron(
        torch.randn(16 // block[0], 16 // block[1], generator=generator), torch.randn(block, generator=generator)
    )
    return W / W.norm() * 4


def fit(
    model: nn.Module, W: Tensor, penalty: Penalty, optimizer: torch.optim.Optimizer, steps: int, rows: int = 64
) -> None:
    """That many steps of it."""
    for _ in regression(model, W, penalty, optimizer, steps, rows):
        pass


def regression(
    model: nn.Module, W: Tensor, penalty: Penalty, optimizer: torch.optim.Optimizer, steps: int, rows: int = 64
) -> Iterator[None]:
    """Regression on random rows, the loop of the documentation."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(rows, W.shape[1], generator=generator, dtype=W.dtype)
        loss = (model(x) - x @ W.T).square().mean() + penalty.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        penalty.step()
        yield


def idle_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """An optimizer whose steps move nothing without gradients."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)
