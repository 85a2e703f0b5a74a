"""The figures of a page's first line, in units that a person reads at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kronfx.page.view import Gain, Sheet

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_PLAIN = ((1e9, " billion"), (1e6, " million"))


@dataclass(frozen=True, slots=True)
class Figure:
    """``22.9 MB → 4.1 MB``, and ``5.6x less`` where there was something before; ``is_loss``: it is more."""

    name: str
    before: str
    after: str
    gain: str
    is_loss: bool = False


def gains(sheets: Sequence[Sheet]) -> tuple[Gain, ...]:
    """What sheets add up to: entries kept, multiply-adds a row where all are known, zero blocks where counted."""
    found = []
    if sheets and any(sheet.stored for sheet in sheets):
        found.append(Gain("entries of the weights", "", sum(s.stored for s in sheets), sum(s.dense for s in sheets)))
    works = [(sheet.work, sheet.dense_work) for sheet in sheets]
    if works and all(None not in pair for pair in works):
        found.append(Gain("multiply-adds a row", "", *(sum(side or 0 for side in column) for column in zip(*works))))
    counted = [sheet for sheet in sheets if sheet.zero_blocks is not None and sheet.blocks]
    if counted:
        zero, blocks = sum(s.zero_blocks or 0 for s in counted), sum(s.blocks or 0 for s in counted)
        found.append(Gain("zero blocks", "share", zero / blocks))
    return tuple(found)


def figure(gain: Gain) -> Figure:
    """A gain in words."""
    before = "" if gain.before is None else said(gain.before, gain.unit)
    times = ""
    if gain.before and gain.after and gain.unit != "share":
        ratio, (less, more) = gain.before / gain.after, ("faster", "slower") if gain.unit == "s" else ("less", "more")
        times = f"{ratio:.3g}x {less}" if ratio >= 1 else f"{1 / ratio:.3g}x {more}"
        times = "" if f"{ratio:.2f}" == "1.00" else times
    return Figure(
        gain.name, before, said(gain.after, gain.unit), times, bool(times) and (gain.before or 0) < gain.after
    )


def said(value: float, unit: str) -> str:
    """A value of a unit (``bytes``, ``s``, ``share``, else a count) with three or four digits."""
    if unit == "share":
        return f"{100 * value:.1f}%"
    scales = {"bytes": _BYTES, "s": _SECONDS}.get(unit, _PLAIN)
    for scale, name in scales:
        if value >= scale:
            return f"{value / scale:.3g}{'' if name.startswith(' ') else ' '}{name}"
    plain = f"{value:,.0f}" if unit != "s" else f"{value:.2g} s"
    return f"{plain} {unit}" if unit == "bytes" else plain
