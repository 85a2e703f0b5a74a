"""How long ``kx.factorize`` takes on a transformers BERT, and whether that grows as its layers do.

    python examples/benchmarks/factorize_time.py
    python examples/benchmarks/factorize_time.py --layers 12 --inits random

Random weights, nothing is downloaded. Each time is the least of a few calls, planning included; the first call of a
process, which imports what torch imports late, is shown apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import nn
from transformers import BertConfig, BertModel

import kronfx as kx
from kronfx.tables import render

LAYERS, RANK = (12, 24, 48), 4
CALLS = {"random": 3, "nearest": 1}


def bert(layers: int) -> nn.Module:
    """BERT-base, so many layers deep."""
    torch.manual_seed(0)
    return BertModel(BertConfig(num_hidden_layers=layers)).eval()


def seconds(model: nn.Module, init: str) -> float:
    """Of one call that leaves the model as it was."""
    start = time.perf_counter()
    kx.factorize(model, rank=RANK, init=init)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS)
    parser.add_argument("--inits", nargs="+", choices=list(CALLS), default=list(CALLS))
    parser.add_argument("--threads", type=int, default=2)
    wishes = parser.parse_args(arguments)
    torch.set_num_threads(wishes.threads)
    first = seconds(bert(1), "random")
    rows = []
    for layers in wishes.layers:
        model = bert(layers)
        times = [min(seconds(model, init) for _ in range(CALLS[init])) for init in wishes.inits]
        rows.append((layers, *(f"{taken:.2f} s, {1e3 * taken / layers:.0f} ms a layer" for taken in times)))
    print(render(f"factorize, rank {RANK}, {wishes.threads} threads", ("layers", *wishes.inits), rows))
    print(f"the first call, one layer: {first:.2f} s")


if __name__ == "__main__":
    main()
