"""What the shape of a block costs in onnxruntime: an encoder with as many blocks zero, in blocks of equal areas.

    python examples/benchmarks/block_shapes.py --json block_shapes.json
    python examples/benchmarks/block_shapes.py --from block_shapes.json

Two layers as wide as BERT-base, random blocks zero, every map lowered to ``blocks``. ``ratio`` is the dense file's time
over the file's; ``expected`` is what ``kronfx.price`` says of the linear maps alone, dense over ``blocks``, with one
block in ten left. What is no linear map takes as long in every file, so the orders are compared, not the ratios.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from inference_clock import Clock
from inference_models import Encoder, Workload, export_dense, zero_blocks
from rich.console import Console
from rich.progress import track

import kronfx as kx
from kronfx import price
from kronfx.files import write
from kronfx.records import KroneckerShape
from kronfx.tables import render

Block = tuple[int, int]
BLOCKS: tuple[Block, ...] = (
    (128, 8), (64, 16), (32, 32), (16, 64), (8, 128),
    (128, 16), (64, 32), (32, 64),
    (128, 32), (64, 64), (32, 128),
)  # fmt: skip
WIDTH, INPUTS = 768, ((1, 128), (8, 128))
MAPS = (*[(WIDTH, WIDTH)] * 4, (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH))  # of a layer
ZERO = 1 - 1 / price.ALIVE


@dataclass(frozen=True)
class Row:
    """One block shape at one input, batch times sequence."""

    block: Block
    input: tuple[int, int]
    dense_ms: float
    ms: float

    @property
    def ratio(self) -> float:
        """Of the whole model."""
        return self.dense_ms / self.ms

    @property
    def expected(self) -> float:
        """Of its linear maps."""
        rows, (m2, n2) = self.input[0] * self.input[1], self.block
        blocks = sum(price.expected(KroneckerShape(m // m2, n // n2, m2, n2), rows) for m, n in MAPS)
        return sum(price.dense(m, n, rows) for m, n in MAPS) / blocks


def measured(clock: Clock, blocks: Sequence[Block], layers: int) -> list[Row]:
    """A file for each block shape beside the dense one, all of one input by turns."""
    rows = {(*each, WIDTH): each[0] * each[1] for each in INPUTS}
    encoder = Workload("encoder", partial(Encoder, layers), rows, ("batch", "sequence"))
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder, "dense.onnx")
        paths = [dense, *(Path(folder, f"{m2}x{n2}.onnx") for m2, n2 in blocks)]
        for block, path in track([*zip(blocks, paths[1:])], "writing", console=Console(stderr=True)):
            torch.manual_seed(0)
            model = encoder.build().eval()
            zero_blocks(model, block, ZERO)
            kx.sparsify_onnx(export_dense(model, encoder, dense), path, lowering="blocks", block=block, verify=False)
        found = []
        for each in track(INPUTS, "timing", console=Console(stderr=True)):
            dense_ms, *ms = clock.run(paths, torch.randn(*each, WIDTH).numpy())
            found += [Row(block, each, dense_ms, one) for block, one in zip(blocks, ms)]
    return found


def read(path: Path) -> list[Row]:
    """What an earlier run kept."""
    entries = json.loads(path.read_text())
    return [Row(**{**entry, "block": tuple(entry["block"]), "input": tuple(entry["input"])}) for entry in entries]


def show(rows: Sequence[Row]) -> str:
    """The rows as a table, and the pairs whose order was expected the other way round."""
    cells = [("x".join(map(str, r.block)), " x ".join(map(str, r.input)), r.ms, r.ratio, r.expected) for r in rows]
    table = render(f"{ZERO:.0%} zero", ("block", "rows", "ms", "ratio", "expected"), cells)
    pairs = [(a, b) for a, b in combinations(rows, 2) if a.input == b.input]
    wrong = [(a, b) for a, b in pairs if (a.ratio - b.ratio) * (a.expected - b.expected) < 0]
    lines = [f"{len(pairs) - len(wrong)} of {len(pairs)} pairs are in the expected order; not:"]
    for a, b in wrong:
        names = " and ".join(f"{one.block[0]}x{one.block[1]}" for one in (a, b))
        lines.append(f"  {names} at {a.input[0]} x {a.input[1]}: {a.ratio:.2f}x and {b.ratio:.2f}x")
    return "\n".join([table, "", *lines])


def block(text: str) -> Block:
    """``64x16``."""
    m2, n2 = map(int, text.split("x"))
    return m2, n2


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", type=Path, dest="earlier", help="JSON of an earlier run, in place of one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--blocks", type=block, nargs="+", default=BLOCKS, help="output rows first, as in 64x16")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bursts", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    clock = Clock(given.threads, given.bursts)
    rows = read(given.earlier) if given.earlier else measured(clock, given.blocks, given.layers)
    if given.json:
        write(given.json, json.dumps([asdict(row) for row in rows], indent=1).encode(), kx.KronfxError)
    print(show(rows))


if __name__ == "__main__":
    main()
