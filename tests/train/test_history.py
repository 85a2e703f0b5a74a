"""The training report: whole lines, in order, resumed and read back; and a drawing of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from models import mlp
from torch import nn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.train import Blocks, BlockSparsity, GroupLasso, History, PatternSelection


def penalty() -> BlockSparsity:
    torch.manual_seed(0)
    return BlockSparsity(kx.factorize(mlp(16, 24, 8), rank=1, block=(4, 4)), 0.5)


def test_a_line_is_what_the_penalty_says_and_what_it_is_given(tmp_path: Path) -> None:
    watched = penalty()
    with torch.no_grad():
        watched._parts["0"].layer.S[0] = 0
    history = History(tmp_path / "run.jsonl")
    history.record(3, watched, loss=0.25)
    history.record(4, watched, loss=0.125)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert lines == history.lines()
    assert lines[0] == {
        "step": 3,
        "sparsity": 4 / 36,
        "penalty": pytest.approx(0.5 * 32),  # S of 32 blocks is 1
        "strength": 0.5,
        "loss": 0.25,
        "layers": {"0": [4, 24], "2": [0, 12]},
    }


def test_a_resumed_run_goes_on_below_and_its_lines_win(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for step, loss in ((1, 1.0), (2, 2.0), (3, 3.0)):
        History(path).record(step, penalty(), loss=loss)
    for step, loss in ((2, 20.0), (4, 40.0)):
        History(path).record(step, penalty(), loss=loss)
    assert [(line["step"], line["loss"]) for line in History(path).lines()] == [(1, 1), (2, 20), (3, 3), (4, 40)]


def test_a_line_that_was_cut_short_costs_no_other(tmp_path: Path) -> None:
    history = History(tmp_path / "run.jsonl")
    for step in (1, 2):
        history.record(step, penalty())
    history.path.write_bytes(history.path.read_bytes()[:-20])
    assert [line["step"] for line in history.lines()] == [1]
    history.record(3, penalty())
    assert [line["step"] for line in history.lines()] == [1, 3]


def test_a_selection_is_recorded_by_site(tmp_path: Path) -> None:
    model = kx.factorize(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), rank=1, block=[(2, 2), (4, 4)])
    selection = PatternSelection(model, strength=0.25)
    with torch.no_grad():
        kx.factors(model)["0.1"].S[0] = 0
    line = History(tmp_path / "run.jsonl").record(0, selection)
    assert line["layers"] == {"0": [2, 16 + 4], "1": [0, 8 + 2]}
    assert line["strength"] == 0.25


def test_a_drawing_has_a_panel_a_figure_and_a_curve_a_layer(tmp_path: Path) -> None:
    history = History(tmp_path / "run.jsonl")
    for step in range(4):
        history.record(step, penalty(), loss=1 / (step + 1))
    root = ElementTree.parse(history.draw(tmp_path / "run.svg")).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Zero groups", "Penalty", "Strength", "Loss", "all", "0", "2"} <= set(texts)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 3 + 3


def test_any_penalty_can_be_watched(tmp_path: Path) -> None:
    line = History(tmp_path / "run.jsonl").record(0, GroupLasso(nn.Linear(4, 4), Blocks(2, 2)))
    assert line["layers"] == {"weight": [0, 4]}


def test_bad_input_is_told_what_to_do(tmp_path: Path) -> None:
    history = History(tmp_path / "run.jsonl")
    with pytest.raises(TrainError, match="no line; needed one at least"):
        history.draw(tmp_path / "run.svg")
    with pytest.raises(TrainError, match="loss=nan at step 7; needed a finite figure"):
        history.record(7, penalty(), loss=math.nan)
    assert history.lines() == []
    for step in ("1", None, 1.5, True):
        with pytest.raises(TrainError, match=f"step={step!r}; needed an integer"):
            history.record(step, penalty())
    with pytest.raises(TrainError, match="a figure named sparsity; needed a name other than a line's own"):
        history.record(7, penalty(), sparsity=0.5)
    with pytest.raises(TrainError, match="loss=much at step 7; needed a finite figure"):
        history.record(7, penalty(), loss="much")
    assert history.lines() == []
    for foreign in (b'{"step":0}', b"[1]", b"\xff\xfe", b"loss: 3"):
        history.record(1, penalty())
        with (tmp_path / "run.jsonl").open("ab") as file:
            file.write(foreign + b"\n")
        with pytest.raises(TrainError, match=r"run.jsonl:2: .*; needed a line that History wrote; delete that line"):
            history.draw(tmp_path / "run.svg")
        (tmp_path / "run.jsonl").unlink()
    with pytest.raises(TrainError, match="cannot write"):
        History(tmp_path / "missing" / "run.jsonl").record(0, penalty())
