"""Pattern selection (later version, Eq. 7 and Figure 3): three block shapes side by side, beside each of them alone.

    python examples/paper/pattern_selection.py --seeds 3 --data FOLDER

Every training is 50 epochs of Adam along a cosine, with the paper's strengths: 0.01, and 0.002 more every 5 epochs.
Seconds are of the processor, on ``--threads`` of its cores.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from common import InMemory, accuracy, arguments, predict
from table import resumed
from torch import Tensor, nn

import kronfx as kx
from kronfx.errors import KronfxError
from kronfx.files import write
from kronfx.layers import KroneckerCandidates
from kronfx.svg import line_chart
from kronfx.train import BlockSparsity, PatternSelection, Stepped

BATCH = 256
Blocks = Mapping[str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class Case:
    """A model, the patterns to choose between (the ``k``-th block of every layer), and the rate it learns at."""

    name: str
    build: Callable[[], nn.Module]
    rank: int
    blocks: Blocks
    rate: float

    def alone(self, k: int) -> nn.Module:
        """With pattern ``k`` and no other."""
        blocks = {site: found[k] for site, found in self.blocks.items()}
        return kx.factorize(self.build(), rank=self.rank, block=blocks, include=list(self.blocks))

    def together(self) -> nn.Module:
        """With all patterns side by side."""
        return kx.factorize(self.build(), rank=self.rank, block=self.blocks, include=list(self.blocks))

    @property
    def patterns(self) -> int:
        """``K``."""
        return len(next(iter(self.blocks.values())))

    def index(self, selected: object) -> int:
        """Which pattern ``PatternSelection.selected`` names."""
        for k in range(self.patterns):
            blocks = {site: found[k] for site, found in self.blocks.items()}
            if selected in (blocks, next(iter(blocks.values())) if len(set(blocks.values())) == 1 else None):
                return k
        raise SystemExit(f"{self.name}: no single pattern is left ({selected}); train longer")


@dataclass(frozen=True)
class Result:
    """One seed: the pattern that survived and when, and what it and each pattern alone came to."""

    model: str
    seed: int
    selected: int
    epoch: int
    accuracy: float
    seconds: float
    alone: list[float]
    alone_seconds: list[float]


def linear() -> nn.Module:
    """784 pixels to 10 digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def cases() -> list[Case]:
    """The linear model and LeNet-5, a fine, a middle and a coarse pattern each."""
    from mnist_lenet import LeNet5

    lenet = {
        "fc1": ((2, 2), (4, 4), (8, 16)),
        "fc2": ((2, 2), (4, 4), (4, 8)),
        "fc3": ((2, 2), (2, 2), (2, 4)),
    }
    return [
        Case("linear", linear, 2, {"1": ((2, 2), (2, 14), (5, 28))}, 4e-3),
        Case("LeNet-5", LeNet5, 4, lenet, 2e-3),
    ]


def train(
    model: nn.Module, batches: InMemory, epochs: int, rate: float
) -> tuple[PatternSelection | BlockSparsity, int, float, dict[str, list[tuple[float, float]]]]:
    """``(helper, the epoch of the selection, seconds, norms over epochs)`` of one training."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
    strength = Stepped(0.01, add=0.002, every=5 * len(batches))
    several = any(isinstance(module, KroneckerCandidates) for module in model.modules())
    helper = (
        PatternSelection(model, strength, strength, optimizer)
        if several
        else BlockSparsity(model, strength, optimizer=optimizer)
    )
    curves: dict[str, list[tuple[float, float]]] = {}
    decided, seconds = 0, 0.0
    for epoch in range(epochs):
        start = time.process_time()
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels) + helper.penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            helper.step()
            schedule.step()
        seconds += time.process_time() - start
        if isinstance(helper, PatternSelection):
            norms = helper.norms()  # none once the choice is made: the curves end there
            for name in {**curves, **norms} if norms else ():
                curves.setdefault(name, []).append((epoch + 1, norms.get(name, 0.0)))
            decided = decided or (epoch + 1 if helper.selected is not None else 0)
    return helper, decided, seconds, curves


def one(case: Case, seed: int, batches: InMemory, test: tuple[Tensor, Tensor], epochs: int, out: Path) -> Result:
    """Select, then train every pattern alone; the curves of the norms lie at ``<model>-<seed>.svg``."""
    torch.manual_seed(seed)
    model = case.together()
    helper, epoch, seconds, curves = train(model, batches, epochs, case.rate)
    line_chart(out / f"{case.name}-{seed}.svg", curves, f"{case.name}, seed {seed}", "epoch", "norm of the pattern")
    found, alone, times = accuracy(predict(model.eval(), test[0]), test[1])[-1], [], []
    for k in range(case.patterns):
        torch.manual_seed(seed)
        single = case.alone(k)
        times.append(train(single, batches, epochs, case.rate)[2])
        alone.append(accuracy(predict(single.eval(), test[0]), test[1])[-1])
    selected = case.index(helper.selected if isinstance(helper, PatternSelection) else None)
    return Result(case.name, seed, selected, epoch, found, seconds, alone, times)


def markdown(results: list[Result]) -> str:
    """A line a model: means over the seeds."""
    lines = [
        "| model | selected | by epoch | accuracy | the same alone | best alone | time / all alone |",
        "|" + "---|" * 7,
    ]
    for name in dict.fromkeys(r.model for r in results):
        runs = [r for r in results if r.model == name]
        mean = statistics.mean
        cells = [
            name,
            ", ".join(str(r.selected) for r in runs),
            f"{mean(r.epoch for r in runs):.0f}",
            f"{mean(r.accuracy for r in runs):.2f}",
            f"{mean(r.alone[r.selected] for r in runs):.2f}",
            f"{mean(max(r.alone) for r in runs):.2f}",
            f"{sum(r.seconds for r in runs) / sum(sum(r.alone_seconds) for r in runs):.0%}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Select and compare, seed by seed."""
    import mnist

    given = arguments(__doc__, "pattern_selection", epochs=50)
    (images, labels), test = mnist.load(given.data)
    path = given.out / "pattern_selection.json"
    results = [Result(**entry) for entry in (resumed(path, given.epochs) if given.resume else [])]
    finished = {(r.model, r.seed) for r in results}
    every = [(case, seed) for case in cases() for seed in range(given.seeds)]
    for case, seed in every:
        if given.only in case.name and (case.name, seed) not in finished:
            results.append(one(case, seed, InMemory(images, labels, BATCH), test, given.epochs, given.out))
            print(results[-1])
            found = {"epochs": given.epochs, "results": [asdict(r) for r in results]}
            write(path, json.dumps(found, indent=1).encode(), KronfxError)
            write(path.with_suffix(".md"), markdown(results).encode(), KronfxError)
    print(markdown(results))


if __name__ == "__main__":
    main()
