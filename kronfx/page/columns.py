"""The table of a page: which columns it has, and what stands in each cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kronfx.page.view import Page, Sheet

Value = str | float | None


@dataclass(frozen=True, slots=True)
class Column:
    """``value`` is what is sorted by, ``said`` how a value reads; ``title`` explains the heading."""

    heading: str
    title: str
    value: Callable[[Sheet], Value]
    said: Callable[[float], str] | None = None  # None: the value is text

    @property
    def is_number(self) -> bool:
        """Aligned to the right, sorted by size."""
        return self.said is not None


@dataclass(frozen=True, slots=True)
class Cell:
    """What a cell says, what was there before, and what it is sorted by."""

    text: str
    before: str
    key: str


def share(part: float | None, whole: float | None) -> float | None:
    """``part / whole``, None where either is unknown."""
    return None if part is None or not whole else part / whole


def percents(value: float) -> str:
    """``0.9`` as ``90.0%``."""
    return f"{100 * value:.1f}%"


def counts(value: float) -> str:
    """``12345`` as ``12,345``."""
    return f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """Seconds, in ms."""
    return f"{1e3 * value:,.0f}" if value >= 1 else f"{1e3 * value:.3g}"


def _kept(sheet: Sheet) -> float | None:
    """By bytes where these are known."""
    known = sheet.bytes is not None
    return share(sheet.bytes, sheet.dense_bytes) if known else share(sheet.stored or None, sheet.dense)


COLUMNS = (
    Column("layer", "the name of the weight's owner", lambda s: s.site),
    Column("state", "planned, factored, folded, dense, or in an ONNX file", lambda s: s.state),
    Column("m × n", "outputs × inputs of W", lambda s: f"{s.m:,} × {s.n:,}"),
    Column("grid", "block rows × block columns", lambda s: f"{s.shape.m1} × {s.shape.n1}" if s.shape else None),
    Column("block", "outputs × inputs of a block", lambda s: f"{s.shape.m2} × {s.shape.n2}" if s.shape else None),
    Column("rank", "Kronecker products in the sum", lambda s: s.rank, counts),
    Column("runs as", "the evaluation, or the lowering in the file", lambda s: s.runs_as),
    Column("entries", "numbers kept of the weight", lambda s: s.stored or None, counts),
    Column("of dense", "what is kept / what the dense weight has", _kept, percents),
    Column("bytes", "size in the file, the bias aside", lambda s: s.bytes, counts),
    Column("zero blocks", "share of the blocks of W that are exactly zero", lambda s: share(s.zero_blocks, s.blocks),
           percents),
    Column("work", "multiply-adds a row of x", lambda s: s.work, counts),
    Column("energy", "share of the trained weight that is kept", lambda s: s.energy, percents),
    Column("predicted ms", "of a training step, by the plan", lambda s: s.predicted, milliseconds),
    Column("measured ms", "of a training step, on this machine", lambda s: s.measured, milliseconds),
)  # fmt: skip


def columns(page: Page) -> tuple[Column, ...]:
    """Those that any sheet has something to say under."""
    return tuple(column for column in COLUMNS if any(column.value(sheet) is not None for sheet in page.sheets))


def cells(column: Column, sheet: Sheet, before: Sheet | None) -> Cell:
    """One cell; what was before stands there where it was otherwise."""
    now, was = column.value(sheet), None if before is None or column.heading == "layer" else column.value(before)
    text = _said(column, now)
    earlier = _said(column, was)
    return Cell(text, earlier if text and earlier != text else "", "" if now is None else str(now))


def _said(column: Column, value: Value) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, str) or column.said is None else column.said(value)
