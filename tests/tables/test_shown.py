"""What prints itself does so at any width, and in a notebook: one mechanism, and nobody left out."""

from __future__ import annotations

import builtins
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.cells import cell_len
from torch import nn

import kronfx as kx
from kronfx.cli.doctor import Health
from kronfx.clock.tuning import TunedLayer, Tuning
from kronfx.deploy.records.bench import Bench, Entrant
from kronfx.deploy.records.forecast import Counted, Forecast
from kronfx.deploy.records.report import ExportedLayer, ExportReport, Latency, LeftWeight, OnnxSummary
from kronfx.deploy.records.timings import Timing, Timings
from kronfx.records import Budget, PlanDifference, Pruned, PrunedLayer, Rates, Refusal, Solution
from kronfx.report import Layer, Report
from kronfx.report.compare import Comparison
from kronfx.tables import Picture, Shown, Table, percent
from kronfx.train import BlockSparsity, History

EVIL = "<script>alert('x')</script>\x1b[2J\u202e&amp;"
LONG = "an embedding that is looked up and multiplied by, which no lowering takes; it stays as it was written " * 3
NAMES = tuple(f"encoder.layer.{i}.attention.output.{EVIL}" for i in range(12))
LEFT = Refusal(EVIL, "Embedding", (30000, 64), LONG)


def plan(**options: float) -> kx.Plan:
    blocks = nn.ModuleList(nn.ModuleDict({"fc1": nn.Linear(64, 256), "fc2": nn.Linear(256, 64)}) for _ in range(12))
    return kx.plan(nn.ModuleDict({"blocks": blocks, "embedding": nn.Embedding(7, 8)}), rank=2, **options)  # type: ignore[arg-type]


def exported() -> ExportReport:
    layers = tuple(
        ExportedLayer(n, 256, 64, (16, 16), "blocks", 40 + i, 64, 65536, 9000, LONG) for i, n in enumerate(NAMES)
    )
    left = (LeftWeight(EVIL, 8, 8, (4, 4), 1, 4, LONG),)
    times = (Latency(1, 0.01, 0.005),)
    return ExportReport(EVIL, 10**6, layers, (1, 7), 1e-6, 1e-4, 0.01, 10**7, 0.02, times, notes=(LONG,), left=left)


def history(folder: Path) -> History:
    written = History(folder / "run.jsonl")
    penalty = BlockSparsity(kx.factorize(nn.Sequential(nn.Linear(16, 16)), rank=1, block=(4, 4)), 0.5)
    for step in range(0, 500, 10):
        written.record(step, penalty, **{EVIL: 1 / (1 + step)})
    return written


TUNED = tuple(TunedLayer(n, 512, "a_first", "b_first", (1e-3, 2e-3, 3e-3), (1e-3, None, None)) for n in NAMES)
PRUNED = tuple(PrunedLayer(n, 256, 64, (16, 16), 64, i, 0.01 * i) for i, n in enumerate(NAMES))
INSPECTED = tuple(Layer(n, "folded", 256, 64, (16, 16), None, "linear", 16384, i) for i, n in enumerate(NAMES))
REPORT = Report(EVIL, INSPECTED, (LEFT,))
COUNTED = tuple(Counted(n, 256, 64, 0.5, (i, i, i, i, 1, None, 3, None)) for i, n in enumerate(NAMES))
RIVALS = (Entrant(EVIL, (1.0,) * 9, 0.1, 10**6), Entrant("int8", refusal=LONG))
EXAMPLES: dict[type[Shown], Callable[[Path], Shown]] = {
    Bench: lambda _: Bench(EVIL, tuple(f"{rows} rows" for rows in range(9)), RIVALS),
    Comparison: lambda _: Comparison(REPORT, REPORT),
    Forecast: lambda _: Forecast(EVIL, 10**6, False, (1, 128), COUNTED, ()),
    Health: lambda _: Health(EVIL, EVIL, {"torch": EVIL}, {"timm": None}, 2, 2, ("onnxruntime",), EVIL, None),
    Budget: lambda _: plan(max_params=0.5).budget or pytest.fail("no budget"),
    ExportReport: lambda _: exported(),
    History: history,
    OnnxSummary: lambda _: OnnxSummary(EVIL, 3, EVIL, exported().layers),
    kx.Plan: lambda _: plan(max_params=0.5),
    PlanDifference: lambda _: plan() - plan().without("blocks.3.fc1"),
    Pruned: lambda _: Pruned(0.5, "obs", "global", "fisher", 4096, PRUNED, (LEFT,)),
    Rates: lambda _: Rates(1, 2, 3, EVIL),
    Report: lambda _: REPORT,
    Solution: lambda _: kx.solve(768, 3072, rank=4),
    Timings: lambda _: Timings((Timing("8x8 in 4x4", "dense", 3, 1e-3),), EVIL, 2),
    Tuning: lambda _: Tuning(TUNED),
}


def kinds(base: type[Shown] = Shown) -> set[type[Shown]]:
    return {
        kind
        for child in base.__subclasses__()
        if child.__module__.startswith("kronfx.")
        for kind in kinds(child) | {child}
    }


def test_every_kind_is_tried_here() -> None:
    assert {kind.__name__ for kind in kinds()} == {kind.__name__ for kind in EXAMPLES}


class Page(HTMLParser):
    """Which elements a piece of HTML has, what stands in its cells, and whether what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag != "img":
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_it_fits_any_width_and_shows_all_in_a_notebook(
    kind: type[Shown], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = EXAMPLES[kind](tmp_path)
    for width in (20, 47, 100, 200):
        value.print(width=width)
        printed = capsys.readouterr().out
        assert max(map(cell_len, printed.split("\n"))) <= width
        assert printed.replace("\n", "").isprintable()
        assert printed == f"{value}\n" or width != 100

    page = Page(value._repr_html_())
    assert page.open == []
    assert {"script", "b"} & set(page.tags) == set()
    assert all(cell.isprintable() for cell in page.cells)
    for part in value.shown():
        if isinstance(part, Table):
            table = part.folded().said()
            assert set(table.headers()) <= set(page.cells)
            assert {cell for row in table.cells() for cell in row} <= set(page.cells)
            places = [column.goes for column in part.columns if column.goes]
            assert len(places) == len(set(places)), "which column goes first is said once for each"
        elif isinstance(part, Picture):
            assert "img" in page.tags


def test_layers_alike_are_one_row_and_the_record_has_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    made = plan()
    whole = sum(choice.parameters for choice in made.choices)
    assert "blocks.0-11.fc1  x12" in str(made)
    assert f"{whole:,} parameters ({percent(whole, made.dense_parameters)})" in str(made)
    made.print(width=200, fold=False)
    assert "blocks.7.fc1 " in capsys.readouterr().out
    assert len(kx.Plan.from_json(made.to_json()).choices) == len(kx.inspect(made).to_dict()["layers"]) == 24
    table = Report("r", INSPECTED).table().folded()
    (row,) = table.cells()
    said = dict(zip(table.headers(), row))
    assert (said["zero blocks"], said["zero"], said["stored"]) == ("66", "0.00%-17.19%", f"{12 * 16384:,}")


SAID = "from kronfx.tables import Shown; type('Words', (Shown,), {'shown': lambda _: ['x' * 500]})().print()"


def test_a_terminal_gets_its_own_width_and_a_pipe_a_hundred() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    piped = subprocess.run([sys.executable, "-c", SAID], capture_output=True, text=True, env=environment, check=True)
    assert max(map(len, piped.stdout.splitlines())) == 100
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 64))
    with os.fdopen(theirs, "w") as terminal:
        subprocess.run([sys.executable, "-c", SAID], stdout=terminal, env=environment, check=True)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert max(map(len, shown.splitlines())) == 64


@pytest.mark.parametrize("width", [0, 19, 99.5, "100"])
def test_a_width_that_is_none_is_a_sentence(width: object) -> None:
    with pytest.raises(kx.KronfxError, match="^kronfx: width=.*; needed at least 20 columns; leave it out"):
        Rates(1, 2, 3).print(width=width)  # type: ignore[arg-type]


def test_in_a_notebook_text_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rich sees a notebook it shows what it draws at once, and there is no text to return."""
    shell = type("ZMQInteractiveShell", (), {})
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    assert "m x n" in str(Report("r", INSPECTED))
