"""What pruning a trained model takes: seconds and peak memory by depth, and of one large layer by block row.

    python examples/benchmarks/prune_time.py --layers 2 4 6 12 --large 4096x11008 --json prune_time.json

BERT-base's encoder at several depths, random weights (time does not ask what they are), random tokens, ``kx.prune`` as
it comes. Every line is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertModel

import kronfx as kx
from kronfx.compress.path import surgeon_path
from kronfx.records import KroneckerShape

BATCH, BLOCK_ROWS = 8, 4  # sequences a batch; of a large layer the block rows that are measured

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Pruning:
    """Of a model with so many layers; ``peak`` in bytes, ``before`` of it were in use when pruning began."""

    layers: int
    seconds: float
    peak: int
    before: int


@dataclass(frozen=True)
class Ranking:
    """Of a layer ``[m, n]``: seconds of one block row, and of what all share (the inverse)."""

    layer: str
    block_rows: int
    shared: float
    each: float
    peak: int
    before: int

    @property
    def all_of_it(self) -> float:
        """Extrapolated: block rows take as long as each other."""
        return self.shared + self.block_rows * self.each


def peak() -> int:
    """Bytes that this process has had in memory at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def pruning(layers: int, sequences: int, length: int, block: tuple[int, int], threads: int) -> Pruning:
    """Prune three quarters of the blocks of a BERT-base of this depth."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = BertModel(BertConfig(num_hidden_layers=layers), add_pooling_layer=False).eval()
    tokens = torch.randint(model.config.vocab_size, (sequences, length))
    before, start = peak(), time.perf_counter()
    kx.prune(model, [{"input_ids": batch} for batch in tokens.split(BATCH)], target=0.75, block=block)
    return Pruning(layers, time.perf_counter() - start, peak(), before)


def ranking(m: int, n: int, block: tuple[int, int], threads: int) -> Ranking:
    """Rank one and then ``BLOCK_ROWS`` block rows more of a layer whose inputs are correlated."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2048, n, generator=generator) * torch.linspace(0.1, 1, n)
    H = (X.mT @ X).div_(len(X)).double()
    H.diagonal().add_(0.01 * float(H.diagonal().mean()))
    W = torch.randn((1 + BLOCK_ROWS) * block[0], n, generator=generator).double()
    del X
    before, seconds = peak(), []
    for rows in (1, 1 + BLOCK_ROWS):
        start = time.perf_counter()
        surgeon_path(W[: rows * block[0]], H, KroneckerShape(rows, n // block[1], *block))
        seconds.append(time.perf_counter() - start)
    each = (seconds[1] - seconds[0]) / BLOCK_ROWS
    return Ranking(f"{m}x{n}", m // block[0], seconds[0] - each, each, peak(), before)


def alone(task: Callable[..., Measured], *arguments: object) -> Measured:
    """The result of a task in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def table(prunings: list[Pruning], rankings: list[Ranking]) -> list[Table]:
    """What was measured."""
    models = Table("layers", "seconds", "a layer", "peak GiB", "before", title="kx.prune of a BERT-base")
    for one in prunings:
        cells = one.seconds, one.seconds / one.layers, one.peak / 2**30, one.before / 2**30
        models.add_row(str(one.layers), *(f"{cell:.2f}" for cell in cells))
    layers = Table("layer", "block rows", "inverse s", "a block row s", "all (extrapolated) s", "peak GiB", "before")
    for each in rankings:
        sizes = each.shared, each.each, each.all_of_it, each.peak / 2**30, each.before / 2**30
        layers.add_row(each.layer, str(each.block_rows), *(f"{size:.2f}" for size in sizes))
    return [one for one in (models, layers) if one.row_count]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="*", default=[2, 4], help="depths of the model")
    parser.add_argument("--large", nargs="*", default=[], help="layers MxN of which a few block rows are ranked")
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--block", type=int, nargs=2, default=(16, 16), help="m2 n2")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    options = parser.parse_args()
    block = tuple(options.block)
    prunings = [alone(pruning, n, options.sequences, options.length, block, options.threads) for n in options.layers]
    sizes = [tuple(map(int, name.split("x"))) for name in options.large]
    rankings = [alone(ranking, m, n, block, options.threads) for m, n in sizes]
    Console().print(*table(prunings, rankings))
    if options.json is not None:
        found = {"models": list(map(asdict, prunings)), "layers": list(map(asdict, rankings))}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
