"""``python tests/wild/table.py [--only NAME ...]``: what kronfx does to strangers' files, as a table for the README.

Packages are kept in the folder that KRONFX_WILD names, if it does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wild.check import Row, check
from wild.files import WILD, Unreachable, Wild, cache_folder, fetch

HEAD = "| file | bytes | after | ratio | ms | after | error | note |\n|---|--:|--:|--:|--:|--:|--:|---|"


def main() -> int:
    """Print a line a file, as it is and pruned; the exit status says whether all answer as before and none grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names or globs, as in 'magika*'")
    chosen = [wild for wild in WILD if any(fnmatchcase(wild.name, name) for name in parser.parse_args().only)]
    print(HEAD)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for wild in chosen for row in _rows(wild, Path(folder))]
    return int(any(row.after is not None and (row.after > 1.02 * row.before or row.error > 1e-4) for row in rows))


def _rows(wild: Wild, folder: Path) -> list[Row]:
    try:
        source = fetch(wild, cache_folder(folder))
    except Unreachable as why:
        print(f"| {wild.name} | | | | | | | {why} |", flush=True)
        return []
    rows = []
    for pruned in (False, True):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            row = check(wild, source, pruned, Path(own))
        if row is not None:
            rows.append(row)
            print(_line(row), flush=True)
    return rows


def _line(row: Row) -> str:
    name = f"{row.name}, pruned (needs {row.least:,})" if row.pruned else row.name
    note = row.note.replace("|", "/").replace("\n", " ")
    if row.after is None or row.ms_after is None:
        return f"| {name} | {row.before:,} | | | {row.ms_before:.2f} | | | {note} |"
    sizes = f"{row.before:,} | {row.after:,} | {row.after / row.before:.3f}"
    return f"| {name} | {sizes} | {row.ms_before:.2f} | {row.ms_after:.2f} | {row.error:.0e} | {note} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
