"""What pruning a trained model costs, right away and after recovery, by block shapes and draws of calibration data.

    python examples/benchmarks/one_shot.py --data FOLDER_OR_FILE --targets 0.5 0.75 0.9 --recover 0 100 300
    python examples/benchmarks/one_shot.py --model minilm --blocks 16x16 32x32 64x16

The models, their data and most options are those of ``examples/compress_pretrained.py``.
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from pathlib import Path

from torch import nn

import kronfx as kx

sys.path.insert(0, str(Path(__file__).parents[1]))
from compress_pretrained import Task, chosen, options


def recovered(task: Task, pruned: nn.Module, steps: int) -> str:
    """The quality right after pruning, and after so many steps."""
    found = f"{task.quality(pruned):.3f}"
    if not steps:
        return found
    won = kx.recover(pruned, task.model, task.lessons, steps=steps, **task.teaching)
    return f"{found}, {task.quality(won):.3f} after {steps}"


def main() -> None:
    """A line a block shape and a draw."""
    parser = options(__doc__.splitlines()[0])
    parser.add_argument("--blocks", nargs="+", default=["16x16"], help="output rows first")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 2, 3], help="seeds of the calibration data")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.75], help="shares of zero blocks")
    parser.add_argument("--recover", type=int, nargs="+", default=[0, 0], help="steps for each of them")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # about maps that nothing is left of
    given.out.mkdir(parents=True, exist_ok=True)
    task = chosen(given)
    task.model.eval()
    print(f"{task.title}, {task.judged}: dense {task.quality(task.model):.3f}", flush=True)
    for block, seed in itertools.product(given.blocks, given.draws):
        start, shape = time.perf_counter(), tuple(map(int, block.split("x")))
        each = kx.prune(task.model, task.calibration(seed), target=given.targets, block=shape, include=task.include)
        print(f"{block}, draw {seed}, {time.perf_counter() - start:.0f} s", end="", flush=True)
        for share, pruned, steps in zip(given.targets, each, given.recover):
            print(f" | {share:.0%}: {recovered(task, pruned, steps)}", end="", flush=True)
        print()


if __name__ == "__main__":
    main()
