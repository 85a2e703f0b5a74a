"""Line charts and bars as SVG text: axes with round ticks, a grid, a legend; no dependency, small enough to diff."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from textwrap import wrap

from kronfx.errors import KronfxError
from kronfx.files import PathLike, write

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours, which people who are colour-blind tell apart; past the seventh, the same ones dashed.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
DASHES = ("", "6 3", "2 2", "8 3 2 3")
WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 68, 20, 44, 50
LEGEND_ROW, LEGEND_MOST, GAP = 18, 14, 10
BARS_WIDTH, BAR, LETTER = 900, 16, 6.8  # pixels; a letter's are those of a wide font
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
class Bars:
    """Groups of bars, one below the other, for ratios: each bar runs from 1 to its value on a logarithmic axis, to the
    right where that is larger. A bar's name has one colour in all groups, its own up to seven names. ``footnote``: how
    the figures were made."""

    groups: Mapping[str, Mapping[str, float]]
    title: str
    x_label: str
    footnote: str = ""


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
    return _file(body, WIDTH, top)


def bar_chart(path: PathLike, bars: Bars) -> Path:
    """Write bars as an SVG file; returns its path. Raises KronfxError where it cannot be written."""
    return write(path, render_bars(bars).encode(), KronfxError)


def render_bars(bars: Bars) -> str:
    """The text of the SVG file. Values that are not positive and finite have no bar."""
    groups = {group: {name: v for name, v in of.items() if 0 < v < math.inf} for group, of in bars.groups.items()}
    names = list(dict.fromkeys(name for of in groups.values() for name in of))
    left = GAP * 2 + LETTER * max(map(len, groups), default=0)
    axis = _ratios([value for of in groups.values() for value in of.values()], left, BARS_WIDTH - RIGHT)
    legend = -(-len(names) // 3) if len(names) > 1 else 0
    top = TOP + LEGEND_ROW * legend
    body = [f'<text class="title" x="{GAP}" y="24">{escape(bars.title)}</text>']
    for index, name in enumerate(names if legend else ()):
        x, y = GAP + (BARS_WIDTH - 2 * GAP) / 3 * (index % 3), TOP + LEGEND_ROW * (index // 3)
        body.append(f'<rect x="{x:.1f}" y="{y - 10:.1f}" width="{BAR - 4}" height="{BAR - 4}" {_fill(index)}/>')
        body.append(_text(x + BAR + 2, y, name, "start"))
    y, lines = top, []
    for group, values in groups.items():
        lines.append(_text(left - GAP, y + 12, group, "end"))
        lines += [
            _bar(axis, y + BAR * place, value, names.index(name)) for place, (name, value) in enumerate(values.items())
        ]
        y += BAR * len(values) + (GAP if legend else 0)
    body += [_line("axis" if tick == 1 else "grid", axis.at(tick), top, axis.at(tick), y) for tick in axis.ticks]
    body += [_text(axis.at(tick), y + 18, _number(tick), "middle") for tick in axis.ticks]
    body += [*lines, _text((left + BARS_WIDTH - RIGHT) / 2, y + 38, bars.x_label, "middle")]
    notes = wrap(bars.footnote, int((BARS_WIDTH - 2 * GAP) / LETTER))
    body += [_text(GAP, y + 60 + LEGEND_ROW * index, note, "start") for index, note in enumerate(notes)]
    return _file(body, BARS_WIDTH, y + 56 + LEGEND_ROW * len(notes))


def _ratios(values: list[float], start: float, end: float) -> _Axis:
    """Powers of two for ticks, 1 among them, and room for a bar's value at both ends."""
    low, high = math.log2(min([*values, 0.9])) - 0.9, math.log2(max([*values, 1.1])) + 0.9
    step = max(1, math.ceil((high - low) / 8))
    ticks = tuple(2.0**k for k in range(math.ceil(low / step) * step, math.floor(high) + 1, step))
    return _Axis(low=low * math.log10(2), high=high * math.log10(2), start=start, end=end, log=True, ticks=ticks)


def _bar(axis: _Axis, y: float, value: float, index: int) -> str:
    one, at = axis.at(1), axis.at(value)
    x, width = min(one, at), abs(at - one)
    label = _text(at + (4 if value >= 1 else -4), y + 12, f"{value:.2f}", "start" if value >= 1 else "end")
    return f'<rect x="{x:.1f}" y="{y + 1:.1f}" width="{width:.1f}" height="{BAR - 2}" {_fill(index)}/>{label}'


def _file(body: list[str], width: int, height: int) -> str:
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img"><style>{STYLE}</style>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *body, "</svg>\n"])


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
