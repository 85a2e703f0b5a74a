"""A file beside its rivals: a value to print."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kronfx.tables import render


@dataclass(frozen=True, slots=True)
class Entrant:
    """One file: median ``seconds`` of a run at each case, seconds to ``load``, ``bytes``, and its largest ``error``
    against the file as it is, relative to ``max(1, max|y|)``; or the ``refusal`` that says why there is none."""

    name: str
    seconds: tuple[float, ...] = ()
    load: float = 0.0
    bytes: int = 0
    error: float = 0.0
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What :func:`kronfx.deploy.bench.bench` measured at each of the ``cases``; the file as it is comes first."""

    path: str
    cases: tuple[str, ...]
    entrants: tuple[Entrant, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        first, *_ = self.entrants
        headers = ("", *(f"{case}, {what}" for case in self.cases for what in ("ms", "gain")), "load ms", "MB", "error")
        rows = [_cells(one, first) for one in self.entrants if not one.refusal]
        title = f"{self.path}, in onnxruntime, at so many rows; gain: the time as it is over this one"
        table = render(title, headers, rows)
        refused = [f"no {one.name}: {one.refusal}" for one in self.entrants if one.refusal]
        return "\n".join([table, *([""] if refused else []), *refused])


def _cells(one: Entrant, first: Entrant) -> tuple[object, ...]:
    times = [
        cell
        for own, base in zip(one.seconds, first.seconds, strict=True)
        for cell in (f"{1e3 * own:.3g}", f"{base / own:.2f}x")
    ]
    return one.name, *times, f"{1e3 * one.load:.3g}", f"{one.bytes / 1e6:.3g}", f"{one.error:.1e}"
