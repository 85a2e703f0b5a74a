"""What the training benchmark found, as tables, as verdicts on what it was to show, and as a chart.

    python examples/benchmarks/train_step_show.py one.json another.json

prints several runs as one, a line a layer and block shape, and the verdicts on all of them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kronfx.records import EVALUATIONS
from kronfx.svg import Bars

LEAST = {1024: 0.95, 256: 0.90}  # of the dense time over kronfx's, by rows
LETTERS = {"a_first": "a", "b_first": "b", "materialize": "W"}
CLOSE, PAPER_BAR, PEAK_RANK = 1.05, 1.3, 4
# The least ratios of the encoder's step to reach, with and without dropout: by block, rank and share of zero blocks.
ENCODER = {
    ("32x32", 1, 0.0): 4.8,
    ("32x32", 4, 0.0): 2.4,
    ("32x32", 8, 0.0): 1.0,
    ("32x32", 4, 0.9): 2.8,
    ("32x32", 16, 0.9): 2.2,
    ("64x16", 4, 0.9): 3.2,
}
BARS = {(task, *case): bar for task in ("encoder", "encoder-p0") for case, bar in ENCODER.items()}


@dataclass(frozen=True)
class Row:
    """One contender on one case. Times are medians in milliseconds; ``forward`` and ``step`` the dense ones over them.

    ``evaluation``: what kronfx's layers run. ``peak_mb``: 10^6 bytes at the peak of a step with Adam.
    """

    task: str
    rows: int
    block: str
    rank: int
    zero: float
    contender: str
    evaluation: str
    forward_ms: float
    step_ms: float
    forward: float
    step: float
    peak_mb: float | None
    parameters: int

    @property
    def case(self) -> tuple[str, int, str, int, float]:
        """What it shares with its rivals."""
        return self.task, self.rows, self.block, self.rank, self.zero

    @property
    def label(self) -> str:
        """The case in a few words."""
        return f"{self.task}, {self.rows} rows, {self.block}, r={self.rank}, {self.zero:.0%} zero"


Case = tuple[str, int, str, int, float]
Rivals = Mapping[str, Row]


def by_case(rows: Iterable[Row]) -> dict[Case, dict[str, Row]]:
    """The rows of each case by contender."""
    cases: dict[Case, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.contender] = row
    return cases


def tables(rows: Sequence[Row], footing: str) -> str:
    """Ratios of a step and of a forward pass, then memory and parameters, 100 columns wide at most."""
    cases = by_case(rows)
    contenders = list(dict.fromkeys(row.contender for row in rows))
    others = [name for name in contenders if name != "dense"]
    parts = [
        _times(
            "step: ms of dense, dense / contender, what kronfx runs",
            "step",
            cases,
            others,
        ),
        _times("forward: the same", "forward", cases, others),
        _memory(cases, [name for name in contenders if name not in EVALUATIONS]),
    ]
    legend = ", ".join(f"{letter}: {name}" for name, letter in LETTERS.items())
    return "\n\n".join([footing, *parts, legend])


def _times(title: str, field: str, cases: Mapping[Case, Rivals], contenders: Sequence[str]) -> str:
    lines = []
    for rivals in cases.values():
        ratios = [f"{getattr(rivals[name], field):.2f}" if name in rivals else "" for name in contenders]
        ours = rivals.get("kronfx")
        dense_ms = getattr(rivals["dense"], f"{field}_ms")
        lines.append(
            [
                f"{dense_ms:.3g}" if dense_ms < 100 else f"{dense_ms:.0f}",
                *ratios,
                "" if ours is None else short(ours.evaluation),
            ]
        )
    return _table(title, cases, ["ms", *map(_header, contenders), "runs"], lines)


def _memory(cases: Mapping[Case, Rivals], contenders: Sequence[str]) -> str:
    weighed = [name for name in contenders if any(r.peak_mb is not None for c in cases.values() if (r := c.get(name)))]
    lines = []
    for rivals in cases.values():
        peaks = [rivals[name].peak_mb if name in rivals else None for name in weighed]
        counts = [f"{rivals[name].parameters:,}" if name in rivals else "" for name in ("dense", "kronfx")]
        lines.append(["" if peak is None else f"{peak:.0f}" for peak in peaks] + counts)
    title = "peak memory of a step with Adam, MB; trained parameters"
    return _table(title, cases, [*map(_header, weighed), "parameters", "kronfx's"], lines)


def _header(name: str) -> str:
    """Narrow enough for nine of them."""
    return {"compiled": "comp.", "kronfx-compiled": "k.comp"}.get(name) or (
        short(name) if name in EVALUATIONS else name
    )


def short(evaluations: str) -> str:
    """An evaluation, or several, in few letters."""
    return "+".join(LETTERS.get(name, name[:3]) for name in evaluations.split("+"))


def _table(title: str, cases: Mapping[Case, Rivals], headers: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    table = Table(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, show_edge=False, padding=0)
    for header in ("task", "rows", "block", "r", "zero"):
        table.add_column(header, justify="left" if header == "task" else "right", no_wrap=True)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for (task, rows, block, rank, zero), cells in zip(cases, lines):
        table.add_row(task, str(rows), block, str(rank), f"{zero:.0%}", *cells)
    text = StringIO()
    Console(file=text, width=100, color_system=None, markup=False).print(table, highlight=False)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def verdicts(rows: Sequence[Row]) -> str:
    """Every bar, with what misses it."""
    cases = [rivals for rivals in by_case(rows).values() if "kronfx" in rivals]
    return "\n".join([*_least(cases), *_bars(cases), *_choices(cases), *_against_paper(cases), *_peaks(cases)])


def _least(cases: Sequence[Rivals]) -> list[str]:
    found = []
    for rows, bar in LEAST.items():
        ours = [rivals["kronfx"] for rivals in cases if rivals["kronfx"].rows == rows]
        misses = [
            f"  {row.label} ({short(row.evaluation)}): step {row.step:.2f}, forward {row.forward:.2f}"
            for row in ours
            if min(row.step, row.forward) < bar
        ]
        found += [f"below {bar:.2f}x dense at {rows} rows: {len(misses)} of {len(ours)}", *misses]
    return found


def _bars(cases: Sequence[Rivals]) -> list[str]:
    ours = {(row.task, row.block, row.rank, row.zero): row for row in (rivals["kronfx"] for rivals in cases)}
    return [
        f"{ours[key].label}: step {ours[key].step:.2f}x, {'reaches' if ours[key].step >= bar else 'MISSES'} {bar}x"
        for key, bar in BARS.items()
        if key in ours
    ]


def _choices(cases: Sequence[Rivals]) -> list[str]:
    """Where single evaluations were forced: whether the chosen one is the fastest or close to it."""
    forced = [rivals for rivals in cases if any(name in rivals for name in EVALUATIONS)]
    misses = []
    for rivals in forced:
        ours, tried = rivals["kronfx"], [rivals[name] for name in EVALUATIONS if name in rivals]
        best = min(tried, key=lambda row: row.step_ms)
        chosen = rivals.get(ours.evaluation, ours)
        if min(chosen.step_ms, ours.step_ms) > CLOSE * best.step_ms:
            was = f"{short(ours.evaluation)} takes {chosen.step_ms / best.step_ms:.2f} times as long as"
            misses.append(f"  {ours.label}: {was} {short(best.evaluation)}")
    share = f"{len(forced) - len(misses)} of {len(forced)}"
    return [f"the chosen evaluation's step is the fastest, or within 5%: {share}", *misses] if forced else []


def _against_paper(cases: Sequence[Rivals]) -> list[str]:
    pairs = [(rivals["paper"], rivals["kronfx"]) for rivals in cases if "paper" in rivals]
    pairs = [(paper, ours) for paper, ours in pairs if ours.rank > 1]
    if not pairs:
        return []
    steps, forwards = (
        math.exp(sum(math.log(getattr(paper, ms) / getattr(ours, ms)) for paper, ours in pairs) / len(pairs))
        for ms in ("step_ms", "forward_ms")
    )
    what = f"paper's order over kronfx, geometric mean where r > 1 ({len(pairs)})"
    return [f"{what}: step {steps:.2f}x, forward {forwards:.2f}x; wanted {PAPER_BAR}x"]


def _peaks(cases: Sequence[Rivals]) -> list[str]:
    weighed = [
        (rivals["dense"], rivals["kronfx"])
        for rivals in cases
        if rivals["kronfx"].peak_mb is not None and rivals["kronfx"].rank <= PEAK_RANK
    ]
    misses = [
        f"  {ours.label} ({short(ours.evaluation)}): {ours.peak_mb:.0f} MB, dense {dense.peak_mb:.0f}"
        for dense, ours in weighed
        if ours.peak_mb > dense.peak_mb
    ]
    return (
        [f"peak memory above dense's at r <= {PEAK_RANK}: {len(misses)} of {len(weighed)}", *misses] if weighed else []
    )


def chart(rows: Sequence[Row], footing: str) -> Bars:
    """The steps of all cases, forced evaluations left out."""
    hidden = {"dense", *EVALUATIONS}
    groups = {
        rivals["dense"].label: {name: row.step for name, row in rivals.items() if name not in hidden}
        for rivals in by_case(rows).values()
    }
    return Bars(
        groups,
        title="One training step: forward and backward, of a whole model with Adam",
        x_label="dense time / contender's time, a step; right of 1 the contender is faster",
        footnote=footing,
    )


def pivot(rows: Iterable[Row]) -> str:
    """kronfx's ratios, step / forward and what runs, in Markdown: a line a layer, rows, zero share and block shape."""
    ours = {row.case: row for row in rows if row.contender == "kronfx"}
    ranks = sorted({row.rank for row in ours.values()})
    lines = [
        f"| layer, rows, zero | blocks | {' | '.join(f'r={rank}' for rank in ranks)} |",
        "|" + "---|" * (2 + len(ranks)),
    ]
    for task, count, zero, block in sorted({(r.task, r.rows, r.zero, r.block) for r in ours.values()}, key=_by_area):
        found = [ours.get((task, count, block, rank, zero)) for rank in ranks]
        cells = [f"{r.step:.2f} / {r.forward:.2f} {short(r.evaluation)}" if r else "" for r in found]
        lines.append(f"| {task}, {count}, {zero:.0%} | {block} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_area(line: tuple[str, int, float, str]) -> tuple[str, int, float, int, int]:
    task, rows, zero, block = line
    m2, n2 = map(int, block.split("x"))
    return task, rows, zero, m2 * n2, m2


def main() -> None:
    """Read the files that ``train_step.py --json`` wrote."""
    rows = [Row(**row) for name in sys.argv[1:] for row in json.loads(Path(name).read_text())["rows"]]
    print(pivot(rows), verdicts(rows), sep="\n\n")


if __name__ == "__main__":
    main()
