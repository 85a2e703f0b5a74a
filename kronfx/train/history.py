"""The training report: what a penalty did over the steps, one JSON line each, and drawn."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kronfx.errors import TrainError
from kronfx.files import PathLike
from kronfx.svg import Chart, Points, figure, render
from kronfx.tables import Column, Part, Picture, Shown, Table
from kronfx.train.penalties import PENALTIES
from kronfx.train.penalties.penalty import Penalty

OWN = "step", "sparsity", "penalty", "strength", "layers"
START = '{"step": '  # of every line, whole or cut short
MOST = 20  # lines that are printed


class History(Shown):
    """Appends one line a :meth:`record` to a file, and draws them.

    ::

        history = kx.train.History("run.jsonl")
        ...
        history.record(step, sparsity, loss=float(loss))       # as often as you like
        history.draw("run.svg")

    A line is ``{"step", "sparsity", "penalty", "strength", "layers": {name: [zero, groups]}}`` and the figures given by
    name. It is written as a whole, by one append; a resumed run goes on below, and the lines of steps that are run
    again replace the older ones in :meth:`lines`. A line that a full disk or a lost machine cut short is left out.

    Raises TrainError: a file that cannot be written; a step that is no integer; what is no penalty; a figure that is no
    finite number, or named like a line's own.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)

    def record(self, step: int, penalty: Penalty, **figures: float) -> dict[str, Any]:
        """Append the line of this step; returns it."""
        if type(step) is not int:
            raise TrainError("", f"step={step!r}", "an integer", "count the optimizer's steps")
        if not isinstance(penalty, Penalty):
            needed = f"one of {', '.join(kind.__name__ for kind in PENALTIES)}, or a selection"
            found = f"a {type(penalty).__name__} where the penalty belongs"
            raise TrainError("", found, needed, "pass what the loop calls step() of")
        given = {name: _figure(name, value, step) for name, value in figures.items()}
        layers = penalty.layers()
        zero, groups = (sum(column) for column in zip(*layers.values()))
        line = {"step": step, "sparsity": zero / groups, "penalty": float(penalty.penalty().detach())}
        line |= {"strength": penalty.strength, **given}
        line = {**line, "layers": {name: list(counts) for name, counts in layers.items()}}
        self._append(json.dumps(line) + "\n")
        return line

    def lines(self) -> list[dict[str, Any]]:
        """The lines in the order of their steps, of each step the last. Raises TrainError on a file that has others."""
        by_step: dict[int, dict[str, Any]] = {}
        text = self.path.read_text(errors="replace") if self.path.is_file() else ""
        for number, raw in enumerate(text.splitlines(), 1):
            line = _parsed(raw)
            if line is not None:
                by_step[line["step"]] = line
            elif not raw.startswith(START):
                remedy = "delete that line, or record into another file"
                raise TrainError(f"{self.path}:{number}", f"{raw[:40]!r}", "a line that History wrote", remedy)
        return [by_step[step] for step in sorted(by_step)]

    def draw(self, path: PathLike) -> Path:
        """Write the zero groups, of the whole and of every layer, the penalty, the strength and every other figure over
        the steps as one SVG file; returns its path. Raises TrainError where nothing was recorded."""
        lines = self.lines()
        if not lines:
            raise TrainError(str(self.path), "no line", "one at least", "call record() while training")
        return figure(path, _charts(lines))

    def shown(self) -> Iterable[Part]:
        """What is printed: some of the lines, first and last among them; a notebook draws them all."""
        lines = self.lines()
        if not lines:
            return [f"{self.path}: nothing is recorded yet"]
        steps = f"steps {lines[0]['step']:,} to {lines[-1]['step']:,}"
        words = f"The share of zero groups, the penalty, its strength and every other figure over {steps}."
        figures = dict.fromkeys(name for line in lines for name in line if name not in OWN)
        own = Column("step"), Column("zero groups", form=".2%"), Column("penalty", 1), Column("strength", 2)
        columns = (*own, *(Column(name, goes) for goes, name in enumerate(figures, 3)))
        places = sorted({round(part * (len(lines) - 1) / (MOST - 1)) for part in range(MOST)})
        rows = tuple(
            (line["step"], line["sparsity"], line["penalty"], line["strength"], *map(line.get, figures))
            for line in (lines[place] for place in places)
        )
        table = Table(f"{self.path}: {len(lines):,} lines, {steps}", columns, rows)
        return [Picture(render(_charts(lines)), words), table]

    def _append(self, text: str) -> None:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(file, (_end_of_line(file) + text).encode())
            finally:
                os.close(file)
        except OSError as refused:
            found = f"cannot write {self.path}: {refused.strerror}"
            raise TrainError("", found, "a file that can be written", "choose another path") from refused


def _figure(name: str, value: object, step: int) -> float:
    """As it is written. Raises TrainError."""
    if name in OWN:
        raise TrainError("", f"a figure named {name}", "a name other than a line's own", "call it by another name")
    try:
        figure = float(value)  # type: ignore[arg-type]  # tensors and NumPy's numbers too
    except (TypeError, ValueError):
        figure = math.nan
    if not math.isfinite(figure):
        raise TrainError("", f"{name}={value} at step {step}", "a finite figure", "leave it out of this line")
    return figure


def _parsed(raw: str) -> dict[str, Any] | None:
    """What is on a line; None where it is none of ours."""
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) and line.keys() >= set(OWN) and type(line["step"]) is int else None


def _end_of_line(file: int) -> str:
    """What ends a last line that was cut short."""
    size = os.fstat(file).st_size
    return "" if size == 0 or os.pread(file, 1, size - 1) == b"\n" else "\n"


def _charts(lines: Sequence[dict[str, Any]]) -> list[Chart]:
    """The zero groups, of the whole and of every layer, and every other figure."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    shares = {"all": _curve(lines, "sparsity")}
    for layer in dict.fromkeys(name for line in lines for name in line["layers"]):
        counts = [(line["step"], line["layers"][layer]) for line in lines if layer in line["layers"]]
        shares[layer] = [(step, 100 * zero / groups) for step, (zero, groups) in counts]
    shares["all"] = [(step, 100 * share) for step, share in shares["all"]]
    shares = {"all": shares["all"]} if len(shares) == 2 else shares
    charts = [Chart(shares, title="Zero groups", x_label="optimizer steps", y_label="% exactly zero")]
    for name in names:
        if name not in ("step", "sparsity", "layers"):
            title = name[:1].upper() + name[1:]
            curve = {name: _curve(lines, name)}
            charts.append(Chart(curve, title=title, x_label="optimizer steps", y_label=name))
    return charts


def _curve(lines: Sequence[dict[str, Any]], name: str) -> Points:
    return [(line["step"], line[name]) for line in lines if name in line]
