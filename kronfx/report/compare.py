"""``kronfx.compare``: what was and what is, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kronfx.errors import InspectError
from kronfx.files import PathLike
from kronfx.page import pair, write
from kronfx.report.inspect import Subject, inspect
from kronfx.report.node_data import node_data
from kronfx.report.report import Report
from kronfx.tables import Part, Shown
from kronfx.train import History


@dataclass(frozen=True, slots=True)
class Comparison(Shown):
    """Two reports, ``before`` and ``after``: printed one below the other, kept as a dict or an HTML page."""

    before: Report
    after: Report

    def shown(self) -> Iterable[Part]:
        """What is printed: both reports."""
        return ["before", *self.before.shown(), "after", *self.after.shown()]

    def to_dict(self) -> dict[str, Any]:
        """Both as plain data, JSON-ready."""
        return {"before": self.before.to_dict(), "after": self.after.to_dict()}

    def to_html(self, path: PathLike) -> Path:
        """Write one self-contained page of ``after``, every figure with what it was before; returns its path.
        Raises InspectError."""
        page = pair(self.before.page, self.after.page, 'kx.compare(before, after).to_html("report.html")')
        return write(page, path, InspectError)

    def to_model_explorer(self, folder: PathLike) -> tuple[Path, ...]:
        """As :meth:`Report.to_model_explorer` of ``after``; what a layer of ``before`` lost of its energy is its error.
        Raises InspectError."""
        kept = {sheet.site: sheet.energy for sheet in self.before.page.sheets}
        sheets = [replace(sheet, energy=kept.get(sheet.site, sheet.energy)) for sheet in self.after.page.sheets]
        return node_data(self.after.file, sheets, folder)


def compare(
    before: Subject | Report, after: Subject | Report, *, history: History | PathLike | None = None
) -> Comparison:
    """Look at two of what ``kronfx.inspect`` takes, or at two reports of it; layers are matched by their names.

    ``history``: that of the training between them. Raises InspectError, TrainError.
    """
    first = before if isinstance(before, Report) else inspect(before)
    return Comparison(first, after if isinstance(after, Report) else inspect(after, history=history))
