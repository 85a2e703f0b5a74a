"""A file beside its rivals: a value to print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from kronfx.tables import Column, Part, Row, Shown, Table


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
class Bench(Shown):
    """What :func:`kronfx.deploy.bench.bench` measured at each of the ``cases``; the file as it is comes first."""

    path: str
    cases: tuple[str, ...]
    entrants: tuple[Entrant, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a file, and why others are not there."""
        first, *_ = self.entrants
        count = len(self.cases)  # after what is no time the milliseconds go, then the gains, of later cases first
        times = [
            Column(f"{case}, {what}", 2 + part * count + count - place)
            for place, case in enumerate(self.cases)
            for part, what in enumerate(("ms", "gain"))
        ]
        rows = tuple(_cells(one, first) for one in self.entrants if not one.refusal)
        yield self.path
        title = "at so many rows, in onnxruntime; gain: the time as it is over this one"
        yield Table(title, (Column(""), *times, Column("load ms", 1), Column("MB", 2), Column("error")), rows)
        refused = [f"no {one.name}: {one.refusal}" for one in self.entrants if one.refusal]
        if refused:
            yield "\n".join(refused)


def _cells(one: Entrant, first: Entrant) -> Row:
    times = [
        cell
        for own, base in zip(one.seconds, first.seconds, strict=True)
        for cell in (f"{1e3 * own:.3g}", f"{base / own:.2f}x")
    ]
    return one.name, *times, f"{1e3 * one.load:.3g}", f"{one.bytes / 1e6:.3g}", f"{one.error:.1e}"
