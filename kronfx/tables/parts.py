"""What a value shows of itself: tables, pictures and text. Rows of layers alike are one; sums stay what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kronfx.tables.words import families, percent, visible

Folds = Literal["same", "sum", "range"]


@dataclass(frozen=True, slots=True)
class Share:
    """``part`` of a ``whole``, a cell of its own: shares add up above and below the line."""

    part: float
    whole: float

    def __add__(self, other: Share) -> Share:
        return Share(self.part + other.part, self.whole + other.whole)

    def __str__(self) -> str:
        return percent(self.part, self.whole)


@dataclass(frozen=True, slots=True)
class Span:
    """The lowest and the highest cell of rows that are one."""

    low: float
    high: float


Cell = str | int | float | Share | Span | None
Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A ``header``; ``goes``: where there is no room, the column of 1 goes first, then that of 2, those of 0 stay.

    ``folds``: rows are one only where their cells of ``"same"`` columns agree; those of ``"sum"`` columns are added up,
    of ``"range"`` columns the lowest and the highest are shown. ``form``: of its numbers, as ``format`` takes it.
    """

    header: str
    goes: int = 0
    folds: Folds = "same"
    form: str = ""

    def text(self, cell: Cell) -> str:
        """The cell as it is printed; None is left blank."""
        if cell is None:
            return ""
        if isinstance(cell, str):
            return visible(cell)
        if isinstance(cell, Span):
            low, high = self.text(cell.low), self.text(cell.high)
            return low if low == high else f"{low}-{high}"
        if isinstance(cell, Share):
            return str(cell)
        return format(cell, self.form or ("," if isinstance(cell, int) else ".4g"))

    def key(self, cell: Cell) -> object:
        """What must agree for rows to be one."""
        return cell if self.folds == "same" else cell is None

    def folded(self, cells: Sequence[Cell]) -> Cell:
        """The one cell of rows whose keys agree."""
        first = cells[0]
        if self.folds == "same" or first is None:
            return first
        if self.folds == "sum":
            return total(cells)
        numbers = [cell for cell in cells if isinstance(cell, int | float)]
        return Span(min(numbers), max(numbers))


def total(cells: Sequence[Cell]) -> Cell:
    """Numbers, or shares, added up; what is blank adds nothing."""
    there = [cell for cell in cells if cell is not None]
    return sum(there[1:], start=there[0]) if there else None  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title, the first column being their names; ``totals``: the sums are shown below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    totals: bool = False

    @property
    def total(self) -> Row:
        """The row of the sums."""
        sums = [total(cells) if column.folds == "sum" else None for column, cells in self._by_column(self.rows)]
        return ("total", *sums[1:])

    def folded(self) -> Table:
        """Rows whose names differ in numbers of their paths only, and which may be one, as one: ``h.0-11.fc1  x12``."""
        alike: dict[object, list[int]] = {}
        for index, row in enumerate(self.rows):
            key = tuple(column.key(cell) for column, cell in zip(self.columns[1:], row[1:]))
            alike.setdefault(key if isinstance(row[0], str) else index, []).append(index)
        rows: dict[int, Row] = {}
        for indices in alike.values():
            for name, members in families([str(self.rows[index][0]) for index in indices]):
                same = [self.rows[indices[member]] for member in members]
                rows[indices[members[0]]] = same[0] if len(same) == 1 else self._one(name, same)
        return replace(self, rows=tuple(rows[index] for index in sorted(rows)))

    def said(self) -> Table:
        """The table without the columns that no row has anything to say under."""
        said = [any(cell not in (None, "") for cell in cells) for _, cells in self._by_column(self.rows)]
        return self.only([index for index, is_said in enumerate(said) if is_said or index == 0])

    def only(self, kept: Sequence[int]) -> Table:
        """The table of some of its columns."""
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[index] for index in kept), rows=rows)

    def headers(self) -> list[str]:
        """The headers as they are printed."""
        return [visible(column.header) for column in self.columns]

    def cells(self) -> list[list[str]]:
        """What is printed under the headers, the total last."""
        rows = (*self.rows, self.total) if self.totals else self.rows
        return [[column.text(cell) for column, cell in zip(self.columns, row)] for row in rows]

    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        columns = (cells for _, cells in self._by_column(self.rows))
        return [any(isinstance(cell, int | float | Share | Span) for cell in cells) for cells in columns]

    def _one(self, name: str, rows: Sequence[Row]) -> Row:
        cells = [column.folded(cells) for column, cells in self._by_column(rows)]
        return (f"{name}  x{len(rows)}", *cells[1:])

    def _by_column(self, rows: Sequence[Row]) -> list[tuple[Column, tuple[Cell, ...]]]:
        return [(column, tuple(row[index] for row in rows)) for index, column in enumerate(self.columns)]


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG image, and what it shows in words; text has no place for it."""

    svg: str
    words: str


Part = Table | Picture | str
