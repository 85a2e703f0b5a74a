"""Line charts as SVG text: axes with round ticks, a grid, a legend; no dependency, and small enough to diff."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from kronfx.errors import KronfxError
from kronfx.files import PathLike, write

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours, which people who are colour-blind tell apart; past the seventh, the same ones dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
DASHES = ("", "6 3", "2 2", "8 3 2 3")
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 68, 20, 44, 50
LEGEND_ROW, LEGEND_MOST, GAP = 18, 14, 10
STYLE = (
    "text{font:12px system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;fill:#333}"
    ".title{font-size:15px;font-weight:600}.grid{stroke:#e6e6e6}.axis{stroke:#888}"
    ".line{fill:none;stroke-width:2;stroke-linejoin:round}"
)


@dataclass(frozen=True, slots=True)
class Chart:
    """One panel: named series of ``(x, y)`` points, the labels of its axes; ``log_x`` and ``log_y`` for axes in powers
    of ten, on which points that are not positive are left out. Points that are not finite always are."""

    series: Mapping[str, Points]
    title: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values to a pixel range, with ticks."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...] = field(default=())

    def at(self, value: float) -> float:
        """The pixel of a value."""
        value = math.log10(value) if self.log else value
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    path: PathLike, series: Mapping[str, Points], title: str, x_label: str, y_label: str, *, log_x: bool = False
) -> Path:
    """Write one chart as an SVG file; returns its path. Raises KronfxError where it cannot be written."""
    return figure(path, [Chart(series=series, title=title, x_label=x_label, y_label=y_label, log_x=log_x)])


def figure(path: PathLike, charts: Sequence[Chart]) -> Path:
    """Write charts, one below the other, as an SVG file; returns its path. Raises KronfxError."""
    return write(path, render(charts).encode(), KronfxError)


def render(charts: Sequence[Chart]) -> str:
    """The text of the SVG file."""
    body, top = [], 0
    for chart in charts:
        height = HEIGHT + LEGEND_ROW * _legend_rows(chart) + GAP
        body.append(f'<g transform="translate(0 {top})">{_panel(chart)}</g>')
        top += height
    box = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img"><style>{STYLE}</style>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top}" fill="#fff"/>', *body, "</svg>\n"])


def _panel(chart: Chart) -> str:
    shown = {name: _drawable(points, chart) for name, points in chart.series.items()}
    points = [point for line in shown.values() for point in line]
    x = _axis([p[0] for p in points], LEFT, WIDTH - RIGHT, chart.log_x)
    y = _axis([p[1] for p in points], HEIGHT - BOTTOM, TOP, chart.log_y)
    parts = [f'<text class="title" x="{LEFT}" y="24">{escape(chart.title)}</text>']
    parts += [_line("grid", LEFT, y.at(t), WIDTH - RIGHT, y.at(t)) for t in y.ticks]
    parts += [_text(LEFT - 8, y.at(t) + 4, _number(t), "end") for t in y.ticks]
    parts += [_line("grid", x.at(t), TOP, x.at(t), HEIGHT - BOTTOM) for t in x.ticks]
    parts += [_text(x.at(t), HEIGHT - BOTTOM + 18, _number(t), "middle") for t in x.ticks]
    parts.append(_line("axis", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM))
    parts.append(_line("axis", LEFT, TOP, LEFT, HEIGHT - BOTTOM))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, chart.x_label, "middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 16 {middle:g})">{_text(16, middle, chart.y_label, "middle")}</g>')
    for index, line in enumerate(shown.values()):
        path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in line)
        parts.append(f'<polyline class="line" {_pen(index)} points="{path}"/>')
        if len(line) == 1:
            parts.append(f'<circle cx="{x.at(line[0][0]):.1f}" cy="{y.at(line[0][1]):.1f}" r="3" {_fill(index)}/>')
    return "\n".join([*parts, *_legend(chart)])


def _drawable(points: Points, chart: Chart) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for x, y in points
        if math.isfinite(x) and math.isfinite(y) and not (chart.log_x and x <= 0) and not (chart.log_y and y <= 0)
    ]


def _axis(values: list[float], start: float, end: float, log: bool) -> _Axis:
    """Round ticks that cover all values; some room where there is one value, or none."""
    if log:
        first, last = math.floor(math.log10(min(values, default=1))), math.ceil(math.log10(max(values, default=10)))
        last = max(last, first + 1)
        return _Axis(
            low=first, high=last, start=start, end=end, log=True, ticks=tuple(10.0**k for k in range(first, last + 1))
        )
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / 5)
    ticks = tuple(k * step for k in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1))
    return _Axis(low=ticks[0], high=ticks[-1], start=start, end=end, log=False, ticks=ticks)


def _round_step(rough: float) -> float:
    """The nearest of 1, 2, 2.5, 5 and 10 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough * (1 - 1e-9))


def _legend_rows(chart: Chart) -> int:
    """One series of one name needs no legend: the label of its axis says it."""
    entries = min(len(chart.series), LEGEND_MOST + 1)
    return 0 if entries < 2 else -(-entries // 3)


def _legend(chart: Chart) -> list[str]:
    if not _legend_rows(chart):
        return []
    names, column = list(chart.series), (WIDTH - LEFT - RIGHT) / 3
    entries = []
    for index, name in enumerate(names[:LEGEND_MOST]):
        x, y = LEFT + column * (index % 3), HEIGHT + 10 + LEGEND_ROW * (index // 3)
        entries.append(
            f'<line x1="{x:g}" x2="{x + 24:g}" y1="{y - 4:g}" y2="{y - 4:g}" stroke-width="2" {_pen(index)}/>'
        )
        entries.append(_text(x + 30, y, name if len(name) <= 28 else f"{name[:12]}…{name[-14:]}", "start"))
    if len(names) > LEGEND_MOST:
        x, y = LEFT + column * (LEGEND_MOST % 3), HEIGHT + 10 + LEGEND_ROW * (LEGEND_MOST // 3)
        entries.append(_text(x, y, f"and {len(names) - LEGEND_MOST} more", "start"))
    return entries


def _pen(index: int) -> str:
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[index % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _fill(index: int) -> str:
    return f'fill="{COLOURS[index % len(COLOURS)]}"'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _number(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:,.10g}" if 1e-4 <= abs(value) < 1e7 else f"{value:.3g}"
