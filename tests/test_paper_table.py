"""The tables of examples/paper: what a resumed run takes over."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

PAPER = Path(__file__).parents[1] / "examples" / "paper"


def test_runs_of_other_epochs_are_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    common, table = import_module("common"), import_module("table")
    ran = common.Result("2x2", "ours", 0, 90.0, [90.0], 90.0, 86.5, 262, 1.0, 1.0)
    assert table.Table("a", "a", [], 8, tmp_path).read() == []
    table.Table("a", "a", [], 8, tmp_path).write([ran])
    assert table.Table("a", "a", [], 8, tmp_path).read() == [ran]
    with pytest.raises(SystemExit, match="a.json has runs of --epochs 8, not 9: pass that, or another --out"):
        table.Table("a", "a", [], 9, tmp_path).read()
