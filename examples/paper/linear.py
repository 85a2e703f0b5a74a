"""The paper's linear model on MNIST: 10x784 in blocks of 2x2, and the rank ablation (Table 3) at m1, n1 = 2, 28.

    python examples/paper/linear.py --seeds 3 --data FOLDER

The first lines (86.43% zero blocks, 88.97%) are of the paper's later version; the baselines beside it are run here.
"""

from __future__ import annotations

from functools import partial

from common import SGD, InMemory, Paper, Recipe, Row, arguments, elastic, lasso, ours, pruning, run
from table import Table
from torch import nn

import kronfx as kx
from kronfx.train import Blocks, Entries

BATCH, RATE, DENSE_RATE, LASSO_RATE = 128, 0.004, 0.002, 0.05


def dense() -> nn.Module:
    """784 pixels to 10 digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def factored(block: tuple[int, int], rank: int) -> nn.Module:
    """The same, its weight a sum of Kronecker products."""
    return kx.factorize(dense(), rank=rank, block=block)


def rows(epochs: int) -> list[Row]:
    """Zero blocks at least the paper's in every row: its shares of the ablation are 30, 30, 31 and 29 of 56 blocks."""
    factors, weights, blocks = Recipe(epochs, RATE), Recipe(epochs, DENSE_RATE), Blocks(2, 2)
    lassos = Recipe(epochs, LASSO_RATE, SGD)
    target = 0.865
    found = [
        Row("", "dense", dense, None, weights),
        Row("2x2", "ours, rank 2", partial(factored, (2, 2), 2), ours(target), factors, Paper(88.97, 86.43)),
        Row("2x2", "group LASSO", dense, lasso(blocks, target), lassos),
        Row("2x2", "elastic group LASSO", dense, elastic(blocks, target), lassos),
        Row("2x2", "block pruning", dense, pruning(blocks, target), weights),
        Row("1x1", "iterative pruning", dense, pruning(Entries(), target), weights),
    ]
    table = {
        1: (30, Paper(48.40, 53.57, 260)),
        2: (30, Paper(66.79, 53.57, 460)),
        4: (31, Paper(84.58, 55.36, 850)),
        6: (29, Paper(88.19, 51.79, 1240)),
    }
    for rank, (zero, paper) in table.items():
        build = partial(factored, (5, 28), rank)
        found.append(Row("5x28", f"ours, rank {rank}", build, ours(zero / 56), factors, paper))
    return found


def main() -> None:
    """Train, measure, write."""
    import mnist

    given = arguments(__doc__, "linear", epochs=10)
    (images, labels), test = mnist.load(given.data)
    every = rows(given.epochs)
    chosen = [row for row in every if given.only in f"{row.name} {row.method}"]
    table = Table("Linear 10x784, MNIST", "linear", every, given.epochs, given.out)
    done = table.read() if given.resume else []
    print(table.write(run(chosen, InMemory(images, labels, BATCH), test, given, done, table.write)))


if __name__ == "__main__":
    main()
