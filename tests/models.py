"""Small models that between them hold every way the pass can meet a weight."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Odd(nn.Module):
    """Linear layers of odd and prime sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(37, 53)
        self.second = nn.Linear(53, 45, bias=False)
        self.head = nn.Linear(45, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(torch.relu(self.first(x)))))


class Functional(nn.Module):
    """``F.linear`` on its own parameters, a child in between, dropout by the training flag, and an unused child."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(31, 18) / 4)
        self.b1 = nn.Parameter(torch.randn(31))
        self.fc = nn.Linear(31, 12)
        self.w2 = nn.Parameter(torch.randn(12, 12) / 3)
        self.norm = nn.LayerNorm(12)
        self.unused = nn.Linear(6, 6)
        self.hidden_size = 31

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.linear(x, self.w1, self.b1), 0.3, self.training)
        return self.norm(F.linear(input=self.fc(x), weight=self.w2))


class Shared(nn.Module):
    """One layer under two names, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.again = self.layer
        self.out = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.again(torch.relu(self.layer(x))))


class Tied(nn.Module):
    """An embedding whose weight is the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 16)
        self.middle = nn.Linear(16, 16)
        self.head = nn.Linear(16, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(tokens)))


class Optional(nn.Module):
    """Its forward branches on an optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = F.linear(x, self.w)
        return y if mask is None else y * mask


class Branching(nn.Module):
    """Its forward branches on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return F.linear(x, self.w)
        return self.fc(x)


class TwoPaths(nn.Module):
    """Another operation in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.w)
        return y + torch.randn_like(y) if self.training else y


class Twice(nn.Module):
    """One weight in two linear maps of one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.w), self.w)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU in between."""
    layers: list[nn.Module] = []
    for n, m in pairwise(widths):
        layers += [nn.Linear(n, m), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Skip(nn.Sequential):
    """Layers whose output is added to what went in: the last of them ends a residual branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def skip(*widths: int) -> Skip:
    """A residual branch of linear layers; the first width is the last one."""
    return Skip(*mlp(*widths))


def lenet5() -> nn.Sequential:
    """The 61,706-parameter LeNet-5 for 28x28 images."""
    head = {
        "fc1": nn.Linear(400, 120),
        "a1": nn.ReLU(),
        "fc2": nn.Linear(120, 84),
        "a2": nn.ReLU(),
        "fc3": nn.Linear(84, 10),
    }
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    )
    for name, layer in head.items():
        model.add_module(name, layer)
    return model
