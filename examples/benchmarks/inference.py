"""Inference in stock onnxruntime: block-sparse and factored ONNX files beside the dense one, as ratios of one run.

    python examples/benchmarks/inference.py --json inference.json --svg inference.svg
    python examples/benchmarks/inference.py --full --only "bert 1x128" --only 4096x4096
    python examples/benchmarks/inference.py --from first.json second.json --svg inference.svg

Weights and inputs are random, with exactly the share of zero blocks that a row says.
``ratio`` is the dense float32 file's time over the row's, so above 1 the row is faster; it runs at the row count that
`kronfx auto` was tuned for. ``size`` is the file over the surviving weights and everything else in the model, ``load``
the time to open it over the dense file's, ``error`` max|y - y_torch| / max(1, max|y_torch|). ``missed`` names the bars
missed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from inference_clock import Clock, output
from inference_files import Case, File, files
from inference_models import BERT, BRIEF, GPT2, LENET, LINEARS, VIT, Workload
from rich.console import Console
from rich.progress import track

import kronfx as kx
from kronfx.files import write
from kronfx.svg import Bars, bar_chart
from kronfx.tables import render

SIZE_BAR, LOAD_BAR, AUTO_BAR = 1.05, 1.3, 0.97
# The least ratios to reach, by model, rows, share of zero blocks, block, variant and rank.
BARS = {
    ("bert", 128, 0.9, 32, "kronfx auto", None): 2.7,
    ("bert", 1024, 0.9, 32, "kronfx auto", None): 2.3,
    ("bert", 128, 0.9, 64, "kronfx auto", None): 3.4,
    ("bert", 1024, 0.9, 64, "kronfx auto", None): 2.7,
    ("bert", 128, 0.75, 32, "kronfx auto", None): 1.7,
    ("bert", 1024, 0.75, 32, "kronfx auto", None): 1.2,
    ("bert", 128, 0.0, 32, "kronfx factors", 4): 3.0,
    ("bert", 1024, 0.0, 32, "kronfx factors", 4): 2.5,
    ("bert", 128, 0.0, 32, "kronfx factors", 1): 4.2,
    ("bert", 1024, 0.0, 32, "kronfx factors", 1): 3.8,
    ("4096x4096", 1, 0.9, 32, "kronfx auto", None): 10.0,
}
# The same over the dense file in 8 bits, by model, share of zero blocks and variant.
INT8_BARS = {("bert", 0.9, "kronfx auto"): 1.0, ("bert", 0.9, "kronfx auto + int8"): 1.5}


@dataclass(frozen=True)
class Row:
    """One file of one case: ``bar`` the least ratio it should reach; None where there is no file."""

    model: str
    input: str
    zero: float
    block: int
    rank: int | None
    variant: str
    refusal: str = ""
    ms: float | None = None
    ratio: float | None = None
    bar: float | None = None
    bytes: int | None = None
    size_ratio: float | None = None
    load_ms: float | None = None
    load_ratio: float | None = None
    error: float | None = None

    @property
    def missed(self) -> str:
        """The bars that this row stays short of, and why there is no file, if there is none."""
        if self.refusal:
            return self.refusal
        ours = self.variant.startswith("kronfx")
        bars = {
            f"ratio {self.bar or 0:.3g}": self.bar is not None and self.ratio < self.bar,
            f"size {SIZE_BAR}": ours and self.size_ratio > SIZE_BAR,
            f"load {LOAD_BAR}": ours and self.load_ratio > LOAD_BAR,
        }
        return ", ".join(name for name, is_missed in bars.items() if is_missed)


def cases(workload: Workload, zeros: Sequence[float], blocks: Sequence[int], ranks: Sequence[int] = ()) -> list[Case]:
    """All of one model; the factored ones only beside the last share, for no block of theirs is zero."""
    return [
        Case(workload, shape, zero, block, tuple(ranks) if zero == zeros[-1] else ())
        for block in blocks
        for zero in zeros
        for shape in workload.rows
    ]


QUICK = [
    *cases(BERT, (0.75, 0.9), (32,), (1, 4)),
    *cases(BERT, (0.9,), (64,)),
    *cases(BRIEF, (0.9,), (32,)),
    *cases(LINEARS[-1], (0.9,), (32,)),
    *cases(VIT, (0.9,), (32,)),
    *cases(GPT2, (0.9,), (32,)),
    *cases(LENET, (0.9,), (4,)),
]
FULL = [
    case
    for workload in (*LINEARS, BERT, VIT, GPT2, LENET)
    for case in cases(workload, (0.5, 0.75, 0.95, 0.9), (4, 8, 16, 32, 64), range(1, 9))
]


def largest_error(y: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference, relative to the largest value, or to 1."""
    return float(np.abs(y - wanted).max() / max(1.0, np.abs(wanted).max()))


def measure(case: Case, clock: Clock, folder: Path) -> list[Row]:
    """Make, open, compare and time all files of one case."""
    everything = list(files(case, folder))
    made = [file for file in everything if not file.refusal]
    load_ms = dict(zip(made, clock.load([file.path for file in made])))
    x = torch.randn(case.shape)
    with torch.no_grad():
        wanted = {model: model(x).numpy() for model in {file.model for file in made}}
    errors = {file: largest_error(output(clock.open(file.path), x.numpy()), wanted[file.model]) for file in made}
    ms = dict(zip(made, clock.run([file.path for file in made], x.numpy())))
    dense, int8, int4 = made[:3]
    rows = []
    for file in everything:
        row = Row(case.workload.name, case.size, file.zero, case.block, file.rank, file.variant, refusal=file.refusal)
        if file in ms:
            size = file.path.stat().st_size
            row = replace(
                row,
                ms=ms[file],
                ratio=ms[dense] / ms[file],
                bar=least_ratio(case, file, ms[dense] / ms[int8], ms[dense] / ms[int4]),
                bytes=size,
                size_ratio=size / file.least_bytes,
                load_ms=load_ms[file],
                load_ratio=load_ms[file] / load_ms[dense],
                error=errors[file],
            )
        rows.append(row)
    return rows


def measured(chosen: Sequence[Case], clock: Clock, kept: Path | None) -> list[Row]:
    """The rows of all cases; those so far are in the file ``kept`` after every case, for the grid takes hours."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in track(chosen, "measuring", console=Console(stderr=True)):
            rows += measure(case, clock, Path(folder))
            keep(rows, kept)
    return rows


def keep(rows: Sequence[Row], path: Path | None) -> None:
    """Write the rows as JSON, if there is a path."""
    if path:
        write(path, json.dumps([asdict(row) for row in rows], indent=1).encode(), kx.KronfxError)


def least_ratio(case: Case, file: File, int8_ratio: float, int4_ratio: float) -> float | None:
    """The highest of the bars that this file's ratio is held to."""
    name = case.workload.name
    made_of = int8_ratio if "int8" in file.variant else int4_ratio if "int4" in file.variant else 1
    bars = [BARS.get((name, case.rows, file.zero, case.block, file.variant, file.rank))]
    if file.variant.startswith("kronfx auto"):
        bars.append(AUTO_BAR * made_of)  # against the file it was made of
    if (name, file.zero, file.variant) in INT8_BARS and file.rank is None:
        bars.append(INT8_BARS[name, file.zero, file.variant] * int8_ratio)
    return max((bar for bar in bars if bar is not None), default=None)


def show(rows: Sequence[Row], threads: int) -> str:
    """The rows as a table."""
    headers = ("model", "input", "zero", "block", "rank", "variant", "ms", "ratio", "MB", "size", "load ms", "load")
    body = [
        (
            *(row.model, row.input, f"{row.zero:.0%}", row.block, row.rank, row.variant, row.ms, row.ratio),
            *(row.bytes and row.bytes / 1e6, row.size_ratio, row.load_ms, row.load_ratio, row.error, row.missed),
        )
        for row in rows
    ]
    title = f"dense / variant, onnxruntime {onnxruntime.__version__}, {threads} threads"
    return render(title, (*headers, "error", "missed"), body)


def label(row: Row) -> str:
    """A row in a few words."""
    pattern = f"rank {row.rank}" if row.rank else f"{row.zero:.0%}"
    return f"{row.model} {row.input}, {pattern}, {row.block}x{row.block}: {row.variant}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured; print the table, write the JSON and the SVG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every model, share, block and rank: hours, not minutes")
    parser.add_argument("--only", action="append", default=[], help="cases whose name holds this, as in 'bert 8x128'")
    parser.add_argument(
        "--from", type=Path, nargs="+", dest="earlier", help="JSON files of earlier runs, in place of one"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="length of a burst")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    wishes = parser.parse_args(arguments)
    if wishes.earlier:
        rows = [Row(**row) for path in wishes.earlier for row in json.loads(path.read_text())]
        keep(rows, wishes.json)
    else:
        torch.set_num_threads(wishes.threads)
        clock = Clock(wishes.threads, wishes.bursts, wishes.seconds)
        grid = FULL if wishes.full else QUICK
        chosen = [case for case in grid if not wishes.only or any(name in case.label for name in wishes.only)]
        rows = measured(chosen, clock, wishes.json)
    print(show(rows, wishes.threads))
    if wishes.svg:
        title, x_label = (
            f"Files in onnxruntime, {wishes.threads} threads",
            "dense time / variant's time; right of 1 is faster",
        )
        bar_chart(wishes.svg, Bars({label(row): {"": row.ratio} for row in rows if row.ratio}, title, x_label))


if __name__ == "__main__":
    main()
