"""A budgeted plan beside a uniform rank of the same size: energy kept, and accuracy after two epochs of fine-tuning.

    python examples/benchmarks/planner.py --data FOLDER

A LeNet-5 and a small transformer (the 28 rows of an image are its tokens) are trained dense on MNIST. Then each is
factored twice from its weights: at one rank for all layers, and by ``kx.plan(max_params=..., energy=True)`` with as
many parameters. Both are fine-tuned alike.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

import kronfx as kx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import mnist
from mnist_lenet import LeNet5, predict

BATCH, LEARNING_RATE, TUNING_RATE, TUNING_EPOCHS = 128, 2e-3, 1e-3, 2


class RowTransformer(nn.Module):
    """Two pre-norm encoder layers over the rows of an image."""

    def __init__(self, width: int = 64, hidden: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(28, width)
        self.positions = nn.Parameter(0.02 * torch.randn(28, width))
        layer = nn.TransformerEncoderLayer(width, 4, hidden, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[N, 1, 28, 28]`` to logits ``[N, 10]``."""
        return self.head(self.encoder(self.embed(x[:, 0]) + self.positions).mean(dim=1))


@dataclass(frozen=True)
class Case:
    """A model, how many training images it sees and for how many epochs, and the ranks to compare at."""

    name: str
    model: type[nn.Module]
    images: int
    epochs: int
    ranks: tuple[int, ...]


CASES = (Case("LeNet-5", LeNet5, 30_000, 3, (2, 4)), Case("transformer", RowTransformer, 12_000, 5, (2, 4)))


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float, words: str) -> None:
    """Adam with a one-cycle schedule, the batches in the same order for the same seed."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    model.train()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(words, total=steps)
        for _ in range(epochs):
            for batch in torch.randperm(len(images)).split(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
                schedule.step()
                progress.advance(bar)
    model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of the test images."""
    return float((predict(model, images) == labels).float().mean())


def energy(plan: kx.Plan) -> float:
    """The mean share of ``||W||^2`` kept, over every linear map that was looked at; one left dense keeps all of it."""
    dense = [refusal for refusal in plan.refusals if "stays dense" in refusal.reason]
    return (sum(choice.energy or 0.0 for choice in plan.choices) + len(dense)) / (len(plan.choices) + len(dense))


def plans(model: nn.Module, rank: int) -> dict[str, kx.Plan]:
    """The uniform plan, and the budgeted one of the same layers within its number of parameters."""
    uniform = kx.plan(model, rank=rank, energy=True)
    budgeted = kx.plan(model, max_params=uniform.planned_parameters, energy=True, include=_considered(uniform))
    return {f"rank {rank}": uniform, "budget": budgeted}


def _considered(plan: kx.Plan) -> list[str]:
    return [choice.site.name for choice in plan.choices]


def main() -> None:
    """Train, plan, fine-tune, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of MNIST (default: data/mnist, downloaded)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    (images, labels), (test_images, test_labels) = mnist.load(options.data)
    table = Table(title=f"MNIST, {TUNING_EPOCHS} epochs of fine-tuning, torch {torch.__version__}")
    for header in ("model", "plan", "parameters", "energy kept", "accuracy before", "after fine-tuning"):
        table.add_column(header, justify="left" if header in ("model", "plan") else "right")
    for case in CASES:
        torch.manual_seed(0)
        dense = case.model()
        seen = images[: case.images], labels[: case.images]
        train(dense, *seen, case.epochs, LEARNING_RATE, f"{case.name}, dense")
        size = sum(p.numel() for p in dense.parameters())
        table.add_row(case.name, "dense", f"{size:,}", "", "", f"{accuracy(dense, test_images, test_labels):.2%}")
        for rank in case.ranks:
            for name, plan in plans(dense, rank).items():
                model = kx.factorize(copy.deepcopy(dense), plan, init="nearest")
                before = accuracy(model, test_images, test_labels)
                train(model, *seen, TUNING_EPOCHS, TUNING_RATE, f"{case.name}, {name}")
                after = accuracy(model, test_images, test_labels)
                row = (f"{plan.planned_parameters:,}", f"{energy(plan):.2%}", f"{before:.2%}", f"{after:.2%}")
                table.add_row("", name, *row)
        table.add_section()
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
