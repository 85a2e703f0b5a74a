"""``python tests/zoo/table.py [--only NAME ...] [--json FILE]``: what kronfx does to every model of the zoo."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zoo import FAMILIES, entries, installed
from zoo.check import RANK, STEPS, Row, check
from zoo.deployed import BATCHES
from zoo.entry import Entry
from zoo.outcome import TOLERANCE

HEADERS = (
    "model",
    "rewritten",
    "refused",
    "full rank",
    "multiply-adds",
    "ends",
    "trains",
    "fold",
    "save/load",
    "ONNX",
    "s",
)
COLUMNS = ("rewritten", "exact", "works", "ends", "trains", "folds", "reloads", "deploys")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit status says whether every column of every model holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names or globs, as in 'hf/*'")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    chosen = [entry for entry in _all(console) if any(fnmatchcase(entry.name, name) for name in options.only)]
    if not chosen:
        parser.error(f"no model is called {' or '.join(options.only)}")
    started = time.perf_counter()
    rows = _checked(chosen)
    console.print(_table(rows))
    for note in _notes(rows):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(rows)} models in {time.perf_counter() - started:.0f} s, one thread")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return int(any(getattr(row, column).verdict == "fails" for row in rows for column in COLUMNS))


def _all(console: Console) -> list[Entry]:
    missing = [family for family in FAMILIES if not installed(family)]
    if missing:
        console.print(f"not installed, left out: {', '.join(missing)}")
    return [entry for family in FAMILIES if family not in missing for entry in entries(family)]


def _checked(chosen: list[Entry]) -> list[Row]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for entry in chosen:
            progress.update(task, description=entry.name)
            rows.append(check(entry))
            progress.advance(task)
    return rows


def _table(rows: list[Row]) -> Table:
    caption = (
        f"rewritten: share of the entries of untied linear maps. full rank: init='nearest', largest error relative to "
        f"the largest output, float32, tolerance {TOLERANCE:.0e}, as for fold and ONNX (batches {BATCHES}, traced at "
        f"another). multiply-adds: torch's count at rank {RANK} over the dense one. ends: maps that start at zero. "
        f"trains: rank {RANK}, {STEPS} steps. save/load: to the bit."
    )
    table = Table(title="the zoo", caption=caption, caption_justify="left", title_justify="left")
    for header in HEADERS:
        table.add_column(header, justify="left" if header == "model" else "right", no_wrap=True)
    for row in rows:
        refused = str(len(row.coverage.refusals)) if row.coverage else "-"
        share = f"{100 * row.coverage.share:.4g}%" if row.coverage else "FAILS"
        trains = {"holds": "yes", "fails": "FAILS", "open": "-"}[row.trains.verdict]
        rest = (
            str(row.exact),
            str(row.works),
            str(row.ends),
            trains,
            str(row.folds),
            str(row.reloads),
            str(row.deploys),
        )
        table.add_row(row.name, share, refused, *rest, f"{row.seconds:.1f}")
    return table


def _notes(rows: list[Row]) -> list[str]:
    """What the cells have no room for: failures, what could not be judged, and why weights were refused."""
    notes = []
    for verdict, title in (("fails", "Failures"), ("open", "Not judged"), ("holds", "Remarks")):
        found = [
            f"  {row.name}, {column}: {getattr(row, column).text}"
            for row in rows
            for column in COLUMNS
            if getattr(row, column).verdict == verdict and (verdict != "holds" or column == "trains")
            if getattr(row, column).text
        ]
        notes += [f"\n{title}", *found] if found else []
    return [*notes, "\nRefused", *_refused(rows)]


def _refused(rows: list[Row]) -> list[str]:
    """Each reason with the models that met it and how often."""
    models: dict[str, list[str]] = {}
    for row in rows:
        for reason, count in (row.coverage.reasons if row.coverage else {}).items():
            models.setdefault(reason, []).append(f"{row.name} ({count})")
    return [f"  {reason}\n    {', '.join(names)}" for reason, names in sorted(models.items())]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
