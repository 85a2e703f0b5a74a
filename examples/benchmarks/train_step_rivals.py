"""The contenders of the training benchmark: ways to train one block-sparse weight, all of the same ``W``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from train_step_models import Case

import kronfx as kx
from kronfx.layers import KroneckerLinear, kronecker_layers
from kronfx.records import EVALUATIONS, Evaluation
from kronfx.train.penalties.penalty import Penalty

RATE, STRENGTH = 1e-4, 1e-6  # so small that no contender's weights go far: what is measured is the clock


class Rival(nn.Module):
    """Another way to compute ``y [..., m] = x [..., n] W^T + bias`` from the same ``S, A, B``."""

    def __init__(self, layer: KroneckerLinear) -> None:
        super().__init__()
        self.S, self.A, self.B = (nn.Parameter(factor.detach().clone()) for factor in (layer.S, layer.A, layer.B))
        self.register_parameter("bias", None if layer.bias is None else nn.Parameter(layer.bias.detach().clone()))


class Paper(Rival):
    """In the paper's own order: ``sum_i B_i X (S * A_i)^T`` for ``X [n2, n1]`` of every row, ``B_i`` first, a product
    of its own for every ``i``, ``x`` and ``y`` turned around (arXiv 2503.21928, A.4)."""

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., n] -> [..., m]``."""
        (m1, n1), (m2, n2) = self.S.shape, self.B.shape[1:]
        X = x.reshape(-1, n1, n2).permute(2, 0, 1).reshape(n2, -1)  # [n2, N n1]
        total: Tensor | float = 0.0
        for A, B in zip(self.A, self.B):
            total = total + (B @ X).view(-1, n1) @ (self.S * A).T  # [m2 N, m1]
        y = total.view(m2, -1, m1).permute(1, 2, 0).reshape(*x.shape[:-1], m1 * m2)
        return y if self.bias is None else y + self.bias


class LoKr(Rival):
    """As LoKr does: ``W`` from ``torch.kron``, rank by rank, then the dense product."""

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., n] -> [..., m]``."""
        W = sum(torch.kron(self.S * A, B) for A, B in zip(self.A, self.B))
        return F.linear(x, W, self.bias)


def dense(layer: KroneckerLinear) -> nn.Linear:
    """Its ``W``, formed once, as the parameter."""
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(layer.factors.materialize().detach())
    if layer.bias is not None:
        made.bias = nn.Parameter(layer.bias.detach().clone())
    return made


def itself(layer: KroneckerLinear) -> KroneckerLinear:
    """As kronfx made it."""
    return layer


@dataclass(frozen=True)
class Contender:
    """What takes the place of every factored layer, and how it runs."""

    name: str
    replace: Callable[[KroneckerLinear], nn.Module]
    compiled: bool = False
    lasso: bool = False
    evaluation: Evaluation | None = None


DENSE, KRONFX, PAPER = Contender("dense", dense), Contender("kronfx", itself), Contender("paper", Paper)
CONTENDERS = {
    each.name: each
    for each in (
        DENSE,
        Contender("compiled", dense, compiled=True),
        Contender("lasso", dense, lasso=True),
        PAPER,
        Contender("lokr", LoKr),
        KRONFX,
        Contender("kronfx-compiled", itself, compiled=True),
    )
}
FORCED = {name: Contender(name, itself, evaluation=name) for name in EVALUATIONS}


class Still:
    """Stands for an optimizer where a layer's step has none, so that the penalty's own step is still due."""

    def __init__(self, model: nn.Module) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "lr": RATE}]


class Runner:
    """One contender at work on one case.

    ``adam``: the step ends with Adam's. Zeros are frozen; the penalty that keeps them is part of the step where an
    optimizer would move them, and always where the penalty is what is measured.
    """

    def __init__(self, contender: Contender, case: Case, start: nn.Module, device: torch.device, adam: bool) -> None:
        self.model = copy.deepcopy(start)
        layers = kronecker_layers(self.model)
        for name, layer in layers.items():
            self.model.set_submodule(name, contender.replace(layer))
        self.model.to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=RATE) if adam else None
        self.penalty = self._penalty(contender, case, list(layers))
        if contender.evaluation is not None:
            for layer in kronecker_layers(self.model).values():
                layer.evaluation = contender.evaluation
        self.run = torch.compile(self.model, dynamic=False) if contender.compiled else self.model
        self.turns = self.penalty is not None and (contender.lasso or adam)

    def _penalty(self, contender: Contender, case: Case, names: Sequence[str]) -> Penalty | None:
        optimizer = self.optimizer or Still(self.model)
        if contender.lasso:
            blocks = case.task.blocks(case.block)
            groups = {name: kx.train.Blocks(*blocks[name]) for name in names}
            penalty = kx.train.GroupLasso(self.model, groups, strength=STRENGTH, optimizer=optimizer)
        elif case.zero and contender.replace is itself:
            penalty = kx.train.BlockSparsity(self.model, strength=STRENGTH, optimizer=optimizer)
        else:
            return None
        if case.zero:
            penalty.freeze()
        return penalty

    @property
    def parameters(self) -> int:
        """How many are trained."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def evaluations(self) -> tuple[str, ...]:
        """Those that its factored layers run, each once."""
        return tuple(sorted({str(layer.evaluation) for layer in kronecker_layers(self.model).values()}))

    def forward(self, x: Tensor) -> None:
        """One forward pass, no gradient."""
        with torch.no_grad():
            self.run(x)

    def step(self, x: Tensor, dy: Tensor) -> Tensor:
        """One training step, ``dy`` being the gradient of what comes out, which is returned."""
        x.grad = None
        self.model.zero_grad()
        y: Tensor = self.run(x)
        if self.turns:
            self.penalty.penalty()
        y.backward(dy)
        if self.optimizer is not None:
            self.optimizer.step()
        if self.turns:
            self.penalty.step()
        return y.detach()
