"""One layer, dense beside factored: forward, and forward plus backward, as ratios measured in one run.

    python examples/benchmarks/layers.py --json layers.json

Both sides are warmed up and timed in turn on the same random inputs; the figure is dense median over factored median,
so above 1 the factored layer is faster. The factored layer runs the evaluation the planner chose for these rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import kronfx as kx

SIZES = [(768, 768, 2048, 32), (3072, 768, 2048, 64), (768, 3072, 2048, 64), (4096, 4096, 512, 64)]
RANKS = (1, 4, 8)


@dataclass(frozen=True)
class Row:
    """One layer of ``m x n``, ``rows`` rows, square blocks of ``block``, and its two ratios to dense."""

    m: int
    n: int
    rows: int
    block: int
    rank: int
    evaluation: str
    forward: float
    forward_backward: float


def forward(layer: nn.Module, x: Tensor) -> None:
    """One forward pass, no gradient."""
    with torch.no_grad():
        layer(x)


def forward_backward(layer: nn.Module, x: Tensor) -> None:
    """One forward and backward pass, with the gradient of the input, as inside a network."""
    layer(x).sum().backward()


def ratio(
    step: Callable[[nn.Module, Tensor], None], dense: nn.Module, factored: nn.Module, x: Tensor, runs: int
) -> float:
    """Median seconds of the dense layer over those of the factored one, the two timed in turn."""
    seconds: dict[nn.Module, list[float]] = {dense: [], factored: []}
    for run in range(runs + 2):
        for layer, times in seconds.items():
            start = time.perf_counter()
            step(layer, x)
            if run >= 2:
                times.append(time.perf_counter() - start)
    return statistics.median(seconds[dense]) / statistics.median(seconds[factored])


def measure(m: int, n: int, rows: int, block: int, rank: int, runs: int) -> Row:
    """Time one shape at one rank."""
    dense = nn.Linear(n, m)
    plan = kx.plan(dense, rank=rank, block=(block, block), rows=rows)
    factored = kx.factorize(dense, plan)
    x = torch.randn(rows, n, requires_grad=True)
    ratios = (ratio(step, dense, factored, x, runs) for step in (forward, forward_backward))
    return Row(m, n, rows, block, rank, plan.choices[0].evaluation, *ratios)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    cases = [(*size, rank) for size in SIZES for rank in RANKS]
    rows = [measure(*case, arguments.runs) for case in track(cases, description="measuring")]
    table = Table(title=f"dense / factored, float32, {arguments.threads} threads, torch {torch.__version__}")
    for header in ("m x n", "rows", "blocks of", "rank", "evaluation", "forward", "forward + backward"):
        table.add_column(header, justify="right")
    for r in rows:
        times = (f"{r.forward:.1f}x", f"{r.forward_backward:.1f}x")
        table.add_row(f"{r.m}x{r.n}", str(r.rows), f"{r.block}x{r.block}", str(r.rank), r.evaluation, *times)
    Console(width=100).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
