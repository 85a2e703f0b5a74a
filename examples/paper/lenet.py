"""The paper's Table 1: LeNet-5 on MNIST, five rows of block sizes, beside the baselines on the dense model.

    python examples/paper/lenet.py --seeds 3 --data FOLDER

The paper writes a block as inputs x outputs: (16, 8) of the 120x400 layer is 8x16 here, output rows first (16 does not
divide 120). It has rank 5 in every layer; where a block has fewer than 5 entries, that many ranks are every weight.
"""

from __future__ import annotations

from functools import partial

import torch
from common import SGD, InMemory, Paper, Recipe, Row, arguments, elastic, lasso, ours, pruning, run
from table import Table
from torch import nn

import kronfx as kx
from kronfx.train import Blocks, Entries

Block = tuple[int, int]
LAYERS = ("fc1", "fc2", "fc3")
RANK, BATCH, RATE, DENSE_RATE, LASSO_RATE = 5, 128, 0.01, 0.004, 0.05

# Blocks of the three layers (output rows first); the target of all four methods, the zero blocks of the paper's "Ours"
# or a hair more; and its figures: ours, group LASSO, elastic group LASSO.
TABLE: dict[tuple[Block, Block, Block], tuple[float, Paper, Paper, Paper]] = {
    ((8, 16), (4, 8), (2, 4)): (
        0.51, Paper(98.55, 50.85, 6_200), Paper(98.31, 49.43, 61_000), Paper(98.23, 49.47, 61_000)
    ),
    ((4, 8), (4, 4), (2, 2)): (
        0.526, Paper(99.06, 52.49, 22_600), Paper(97.96, 72.97, 61_000), Paper(98.02, 63.28, 61_000)
    ),
    ((4, 4), (4, 4), (2, 2)): (
        0.541, Paper(99.08, 54.02, 13_700), Paper(98.08, 52.58, 61_000), Paper(98.17, 52.77, 61_000)
    ),
    ((4, 4), (2, 2), (2, 2)): (
        0.544, Paper(99.08, 54.30, 9_700), Paper(98.08, 63.29, 61_000), Paper(99.08, 54.30, 61_000)
    ),
    ((2, 2), (2, 2), (2, 2)): (
        0.563, Paper(98.66, 56.27, 6_100), Paper(98.27, 49.38, 61_000), Paper(97.58, 84.43, 61_000)
    ),
}  # fmt: skip
PRUNING = 0.586, Paper(98.02, 58.56, 61_000)


def dense() -> nn.Module:
    """61,706 parameters; channels last, which is faster on a CPU and computes the same."""
    from mnist_lenet import LeNet5

    return LeNet5().to(memory_format=torch.channels_last)


def factored(blocks: dict[str, Block]) -> nn.Module:
    """Its three linear layers as sums of Kronecker products."""
    ranks = {name: min(RANK, m2 * n2) for name, (m2, n2) in blocks.items()}
    return kx.factorize(dense(), rank=ranks, block=blocks, include="fc*")


def rows(epochs: int) -> list[Row]:
    """Four methods a row of the table, and the dense model."""
    factors, weights = Recipe(epochs, RATE), Recipe(epochs, DENSE_RATE)
    lassos = Recipe(epochs, LASSO_RATE, SGD)
    found = [Row("", "dense", dense, None, weights)]
    for shapes, (target, *papers) in TABLE.items():
        name = " ".join(f"{m2}x{n2}" for m2, n2 in shapes)
        blocks = dict(zip(LAYERS, shapes))
        small = [layer for layer, (m2, n2) in blocks.items() if m2 * n2 < RANK]
        note = f"rank 5 in {', '.join(small)}, where 4 = m2 n2 is every weight" if small else ""
        groups = {layer: Blocks(*block) for layer, block in blocks.items()}
        found += [
            Row(name, "ours", partial(factored, blocks), ours(target), factors, papers[0], note),
            Row(name, "group LASSO", dense, lasso(groups, target), lassos, papers[1]),
            Row(name, "elastic group LASSO", dense, elastic(groups, target), lassos, papers[2]),
        ]
    target, paper = PRUNING
    found.append(Row("1x1", "iterative pruning", dense, pruning({"fc*": Entries()}, target), weights, paper))
    return found


def main() -> None:
    """Train, measure, write."""
    import mnist

    given = arguments(__doc__, "lenet", epochs=8)
    (images, labels), test = mnist.load(given.data)
    images = images.contiguous(memory_format=torch.channels_last)
    every = rows(given.epochs)
    chosen = [row for row in every if given.only in f"{row.name} {row.method}"]
    table = Table("LeNet-5, MNIST (Table 1)", "lenet", every, given.epochs, given.out)
    done = table.read() if given.resume else []
    print(table.write(run(chosen, InMemory(images, labels, BATCH), test, given, done, table.write)))


if __name__ == "__main__":
    main()
