"""Plain-text tables, drawn by rich, the same in a terminal, a log and a test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_WIDTH = 240  # wide enough that no row of ours wraps; narrow tables do not grow to it


def render(title: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as a text table under a title; numbers are grouped and right-aligned, ``None`` is left blank."""
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    body = [tuple(row) for row in rows]
    for column, header in enumerate(headers):
        numeric = any(isinstance(row[column], (int, float)) for row in body)
        table.add_column(header, justify="right" if numeric else "left", no_wrap=True)
    for row in body:
        table.add_row(*(_cell(value) for value in row))
    text = StringIO()
    Console(file=text, width=_WIDTH, color_system=None, markup=False).print(table, highlight=False)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def percent(part: float, whole: float) -> str:
    """``part / whole`` as ``"90.00%"``; an empty whole is ``"-"``."""
    return f"{100 * part / whole:.2f}%" if whole else "-"


def abbreviated(names: Iterable[str]) -> str:
    """Names that differ in their numbers only as one: ``h.*.mlp.c_proj (12)``."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(re.sub(r"(?<![^._])\d+\b", "*", name), []).append(name)
    return ", ".join(same[0] if len(same) == 1 else f"{pattern} ({len(same)})" for pattern, same in alike.items())
