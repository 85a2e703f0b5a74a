"""The paper's figures beside ours: every run as JSON, their means as a Markdown table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import Result, Row

from kronfx.errors import KronfxError
from kronfx.files import write

HEADERS = (
    "blocks", "method", "accuracy", "paper", "zero groups", "paper", "parameters", "paper",
    "worst class", "seconds", "MB a step", "ONNX", "where the paper contradicts its formula",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """``<out>/<name>.json`` (every run) and ``<out>/<name>.md`` (their means, a line a row)."""

    title: str
    name: str
    rows: Sequence[Row]
    epochs: int
    out: Path

    def read(self) -> list[Result]:
        """The runs that are there already, of as many epochs."""
        return [Result(**entry) for entry in resumed(self.out / f"{self.name}.json", self.epochs)]

    def write(self, results: Sequence[Result]) -> str:
        """Both files anew; returns the Markdown. Rows without a run have no line yet."""
        runs = [asdict(r) for r in results]
        found = {"title": self.title, "torch": torch.__version__, "epochs": self.epochs, "results": runs}
        write(self.out / f"{self.name}.json", json.dumps(found, indent=1).encode(), KronfxError)
        markdown = self._markdown(results)
        write(self.out / f"{self.name}.md", markdown.encode(), KronfxError)
        return markdown

    def _markdown(self, results: Sequence[Result]) -> str:
        lines = [f"## {self.title}", "", _cells(HEADERS), _cells(["---"] * len(HEADERS))]
        dense = {r.seed: r.classes for r in results if r.method == "dense"}
        for row in self.rows:
            runs = [r for r in results if (r.name, r.method) == (row.name, row.method)]
            if runs:
                lines.append(_cells(_line(row, runs, dense)))
        seeds = len({r.seed for r in results})
        lines += [
            "",
            f"Mean of {seeds} seeds, ± their standard deviation. *worst class*: the largest drop of one class's "
            "accuracy against the dense model of the same seed, in points, the worst of all seeds. *ONNX*: accuracy of "
            "the exported file minus the trained model's, the largest of all seeds.",
        ]
        return "\n".join(lines) + "\n"


def resumed(path: Path, epochs: int) -> list[dict[str, Any]]:
    """The results in a file that an earlier run wrote, none where there is no file. Ends the script where they are of
    other epochs: one table never mixes them."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    known = found.get("epochs", "unknown") if isinstance(found, dict) else "unknown"
    if known != epochs:
        raise SystemExit(f"{path} has runs of --epochs {known}, not {epochs}: pass that, or another --out")
    results: list[dict[str, Any]] = found["results"]
    return results


def _line(row: Row, runs: Sequence[Result], dense: dict[int, list[float]]) -> list[str]:
    paper = row.paper
    drops = [max(a - b for a, b in zip(dense[r.seed], r.classes)) for r in runs if r.seed in dense]
    zeros = [r.sparsity for r in runs if r.sparsity is not None]
    return [
        row.name,
        row.method,
        _mean([r.accuracy for r in runs]),
        "" if paper is None else f"{paper.accuracy:.2f}",
        _mean(zeros) if zeros else "",
        "" if paper is None or paper.sparsity is None else f"{paper.sparsity:.2f}",
        f"{runs[0].parameters:,}",
        "" if paper is None or paper.parameters is None else f"{paper.parameters:,.0f}",
        "" if not drops or row.method == "dense" else f"{max(drops):+.2f}",
        f"{statistics.mean(r.seconds for r in runs):.1f}",
        f"{runs[0].step_mb:.2f}",
        f"{max(abs(r.onnx_accuracy - r.accuracy) for r in runs):.2f}",
        _contradiction(row, runs[0].parameters),
    ]


def _contradiction(row: Row, parameters: int) -> str:
    """Where the printed parameters are not what (1 + r) m1 n1 + r m2 n2, biases and untouched layers come to."""
    printed = None if row.paper is None else row.paper.parameters
    found = [row.note] if row.note else []
    if printed is not None and abs(parameters / printed - 1) > 0.02:
        found.insert(0, f"prints {printed:,.0f} parameters, Eq. 5 gives {parameters:,}")
    return "; ".join(found)


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
