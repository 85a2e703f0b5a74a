"""One display on a terminal, whoever works: what takes long names its layer there, and is silent in a pipe."""

from __future__ import annotations

import os
import pty
import re
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from onnx_files import product
from rich.cells import cell_len
from torch import nn

import kronfx as kx
from kronfx import progress
from kronfx.progress import bar

COLUMNS = 100


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Standard error as a real terminal; what was shown there is in the list afterwards."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, COLUMNS))
    seen: list[bytes] = []
    reader = Thread(target=lambda: seen.extend(_chunks(ours)))  # a full terminal would hold up who writes
    reader.start()
    shown: list[str] = []
    with os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        for name in ("COLUMNS", "LINES", "NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        yield shown
        monkeypatch.undo()
    reader.join()
    os.close(ours)
    shown += [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(seen).decode())]


def _chunks(descriptor: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(descriptor, 4096):
            yield chunk
    except OSError:  # Linux's way to say that there is no more
        return


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 16))


def batches() -> list[torch.Tensor]:
    return [torch.randn(16, 32) for _ in range(3)]


def exported(folder: Path) -> object:
    factored = kx.factorize(small(), rank=1, block=(8, 8))
    with torch.no_grad():
        for factors in kx.factors(factored).values():
            factors.S[1:] = 0
    return kx.export_onnx(factored, folder / "m.onnx", torch.randn(4, 32))


def pruned() -> nn.Module:
    result = kx.prune(small(), batches(), target=0.5, block=(8, 8))
    assert isinstance(result, nn.Module)
    return result


LONG: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "planning": (lambda _: kx.plan(small(), max_params=0.5, energy=True), ["planning: 0"]),
    "factorizing": (lambda _: kx.factorize(small(), rank=1, init="nearest"), ["factorizing: 0"]),
    "calibrated": (lambda _: kx.factorize(small(), rank=1, init="calibrated", batches=batches()), ["fitting: 0"]),
    "tuning": (lambda _: kx.tune(kx.factorize(small(), rank=1), torch.randn(4, 32)), ["tuning: 0"]),
    "timing": (lambda _: kx.calibrate(rows=8), ["timing: 24x24 of 32x32, rank 1, a_first"]),
    "pruning": (lambda _: pruned(), ["calibration: batch 1", "ranking: 0", "setting anew: 0"]),
    "recovering": (lambda _: kx.recover(pruned(), small(), batches(), steps=2), ["recovery: loss "]),
    "folding": (lambda _: kx.fold(kx.factorize(small(), rank=1)), ["folding: 0"]),
    "saving": (lambda folder: kx.save(small(), folder / "kept"), ["saving: 0.weight"]),
    "loading": (lambda folder: kx.load(small(), kx.save(small(), folder / "kept")), ["loading: reading the tensors"]),
    "exporting": (
        exported,
        ["export: capturing the graph", "timing: 0", "racing: source, turn 1", "verifying: at batch size 1"],
    ),
    "sparsifying": (
        lambda folder: kx.sparsify_onnx(product(folder / "m.onnx"), folder / "out.onnx", rows=1),
        ["sparsify: reading", "looking: w", "timing: w", "verifying: at batch size 1"],
    ),
}


@pytest.mark.parametrize("verb", LONG)
def test_a_terminal_shows_the_layer_and_a_pipe_nothing(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    work, names = LONG[verb]
    for force in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", force)  # of other tools, which must not bring the bar into a pipe
        work(tmp_path)
        assert capfd.readouterr().err == ""
    with terminal(monkeypatch) as shown:
        work(tmp_path)
    assert [name for name in names if name not in shown[0]] == []
    assert progress._SHOWN.get() is None


def test_a_bar_within_a_bar_is_a_line_of_the_same_display() -> None:
    with bar("outer", 2) as begin:
        begin("first")
        shown = progress._SHOWN.get()
        assert shown is not None
        with bar("inner", 3) as step:
            assert progress._SHOWN.get() is shown
            step("one")
            step("two")
            said = [(task.description, task.completed) for task in shown.tasks]
            assert said == [("outer: first", 0), ("inner: two", 1)]
        begin("second")
        assert [(task.description, task.completed) for task in shown.tasks] == [("outer: second", 1)]
    assert progress._SHOWN.get() is None


def test_an_interruption_takes_the_display_away() -> None:
    with pytest.raises(KeyboardInterrupt), bar("outer", 1), bar("inner", 1):
        raise KeyboardInterrupt
    assert progress._SHOWN.get() is None


def test_a_long_or_strange_name_fits_a_line_and_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown, bar("timing", 3) as begin:
        begin("[red]\x1b[31m" + "encoder." * 40 + "fc1\u202e")
    assert "…" in shown[0]
    assert "encoder.fc1\\u202e" in shown[0]
    assert max(map(cell_len, shown[0].splitlines())) <= COLUMNS


def test_what_is_printed_goes_where_it_goes(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with terminal(monkeypatch) as shown, bar("timing", 1) as begin:
        begin("fc1")
        print("a line of the model's own")
    assert "a line of" not in shown[0]
    assert capfd.readouterr().out == "a line of the model's own\n"
