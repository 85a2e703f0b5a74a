"""Parts as plain text of a given width, drawn by rich: the same in a terminal, a log and a test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO
from itertools import count
from typing import cast

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table as Drawn
from rich.text import Text

from kronfx.tables.parts import Cell, Column, Part, Picture, Table
from kronfx.tables.words import visible

WIDEST = 240
GAP = 2  # between columns
LONGEST = 0.5  # of the width: what is longer is broken, and drives no other column away
HANGING = 2  # spaces before what a line could not hold


def text(parts: Iterable[Part], width: int, *, fold: bool = True) -> str:
    """The parts one below the other, no line wider than ``width``; ``fold``: rows of layers alike are one."""
    return "\n\n".join(_part(part, width, fold) for part in parts if not isinstance(part, Picture))


def render(title: str, headers: Iterable[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Rows under a title as one table, as wide as it is."""
    return text([Table(title, tuple(map(Column, headers)), tuple(map(tuple, rows)))], WIDEST, fold=False)


def _part(part: Table | str, width: int, fold: bool) -> str:
    if isinstance(part, str):
        return wrapped(part, width)
    table = (part.folded() if fold else part).said()
    fitted, gone = fitting(table, width)
    lines = [wrapped(table.title, width), _drawn(fitted, width)]
    if gone:
        note = f"not shown at {width} columns: {', '.join(gone)}; .print(width={_needed(table, width)}) has all"
        lines.append(wrapped(note, width))
    return "\n".join(line for line in lines if line)


def wrapped(sentences: str, width: int) -> str:
    """Lines of at most so many columns; what goes on is indented."""
    return "\n".join(part for line in sentences.split("\n") for part in _broken(visible(line), width))


def _broken(line: str, width: int) -> list[str]:
    if cell_len(line) <= width:
        return [line]
    rest = line.lstrip()
    indent = " " * min(len(line) - len(rest), width // 2)
    pieces = Text(rest).wrap(_console(width), width - len(indent) - HANGING, overflow="fold")
    return [f"{indent}{' ' * HANGING if number else ''}{piece.plain}".rstrip() for number, piece in enumerate(pieces)]


def fitting(table: Table, width: int) -> tuple[Table, list[str]]:
    """The table with as many columns as there is room for, and the headers of those that went."""
    columns, longest = table.columns, round(LONGEST * width)
    lengths = [min(longest, max(map(cell_len, cells))) for cells in zip(table.headers(), *table.cells())]
    kept = set(range(len(columns)))
    order = sorted((index for index in kept if columns[index].goes), key=lambda index: columns[index].goes)
    while order and sum(lengths[index] + GAP for index in kept) - GAP > width:
        kept.remove(order.pop(0))
    gone = [header for index, header in enumerate(table.headers()) if index not in kept]
    return table.only(sorted(kept)), gone


def _needed(table: Table, width: int) -> int:
    """The least width from there on that has room for all columns."""
    return next(wider for wider in count(width + 1) if not fitting(table, wider)[1])


def _drawn(table: Table, width: int) -> str:
    drawn = Drawn(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for header, is_number in zip(table.headers(), table.numeric()):
        justify: JustifyMethod = "right" if is_number else "left"
        drawn.add_column(Text(header), justify=justify, overflow="fold")
    for row, cells in enumerate(table.cells()):
        drawn.add_row(*map(Text, cells), end_section=table.totals and row == len(table.rows) - 1)
    console = _console(width)
    console.print(drawn)
    return "\n".join(line.rstrip() for line in cast(StringIO, console.file).getvalue().splitlines())


def _console(width: int) -> Console:
    """One that writes plain text into memory, wherever it runs: in a notebook rich would show it there at once."""
    return Console(file=StringIO(), width=width, color_system=None, force_terminal=False, force_jupyter=False)
