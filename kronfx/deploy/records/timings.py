"""What was timed, as a value that can be kept and used again."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from kronfx.errors import ExportError
from kronfx.records import Lowering
from kronfx.tables import Column, Part, Shown, Table

TIMINGS_FORMAT, TIMINGS_VERSION = "kronfx-timings", 1
COLUMNS = Column("layer"), Column("rows"), Column("lowering"), Column("time")


@dataclass(frozen=True, slots=True)
class Timing:
    """Median ``seconds`` of one product over ``rows`` rows in onnxruntime.

    ``layer`` says all that decides it: ``"3072x768 in 32x32, 90% zero, float32, 3 axes"``.
    """

    layer: str
    lowering: Lowering
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Timings(Shown):
    """Timings of one machine, ``threads`` being its cores."""

    entries: tuple[Timing, ...] = ()
    machine: str = ""
    threads: int = 0

    @classmethod
    def here(cls, entries: Iterable[Timing] = ()) -> Timings:
        """Timings of this machine."""
        return cls(tuple(entries), platform.processor() or platform.machine(), os.cpu_count() or 1)

    def seconds(self, layer: str, lowering: Lowering, rows: int) -> float | None:
        """What was measured, None where nothing was."""
        wanted = (layer, lowering, rows)
        return next((e.seconds for e in self.entries if (e.layer, e.lowering, e.rows) == wanted), None)

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a product."""
        rows = tuple((e.layer, e.rows, e.lowering, f"{1000 * e.seconds:.3f} ms") for e in self.entries)
        return [Table(f"timed on {self.machine}, {self.threads} threads", COLUMNS, rows)]

    def to_json(self) -> str:
        """The timings as JSON text; ``from_json`` reads it back equal."""
        return json.dumps({"format": TIMINGS_FORMAT, "version": TIMINGS_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Timings:
        """The timings that ``to_json`` wrote. Raises ExportError on anything else."""
        try:
            data = json.loads(text)
            if data["format"] != TIMINGS_FORMAT or data["version"] != TIMINGS_VERSION:
                raise ValueError(f"{data['format']!r}, version {data['version']!r}")
            entries = tuple(_timing(**entry) for entry in data["entries"])
            return cls(entries, str(data["machine"]), int(data["threads"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            found = f"text that holds no timings ({type(error).__name__}: {error})"
            raise ExportError("", found, "the JSON of Timings.to_json", "leave timings out to measure anew") from None


def timings_of(value: Timings | str | os.PathLike[str] | None) -> Timings:
    """Timings, or the file they were saved in. Raises ExportError."""
    if value is None:
        return Timings.here()
    if isinstance(value, Timings):
        return value
    if not isinstance(value, (str, os.PathLike)):
        found = f"timings of type {type(value).__name__}"
        raise ExportError("", found, "a Timings value or the path of its JSON", "pass report.timings of an export")
    try:
        return Timings.from_json(Path(value).read_text())
    except (OSError, UnicodeDecodeError) as error:
        found = f"timings in {os.fspath(value)} cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ExportError("", found, "the JSON of Timings.to_json", "leave timings out to measure anew") from None


def _timing(layer: str, lowering: Lowering, rows: int, seconds: float) -> Timing:
    if lowering not in get_args(Lowering) or not isinstance(rows, int) or not seconds > 0:
        raise ValueError(f"lowering {lowering!r}, rows {rows!r}, seconds {seconds!r}")
    return Timing(str(layer), lowering, rows, float(seconds))
