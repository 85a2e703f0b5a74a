"""Pictures hold what a matrix holds, as finely as they say."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path

import models
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kronfx as kx
from kronfx.page import Gain, Page, Picture, Sheet, block_map, pair, picture
from kronfx.page.drawing import drawings
from kronfx.page.render import html
from kronfx.page.verdict import figure


def drawn(one: Picture) -> np.ndarray:
    """The values that a page shows."""
    levels = np.frombuffer(b64decode(one.cells), np.uint8).reshape(one.height, one.width).astype(float)
    return one.top * ((levels - 128) / 127 if one.signed else np.maximum(levels - 1, 0) / 254)


sizes = st.integers(1, 40)


@given(sizes, sizes, st.integers(1, 16), st.booleans(), st.integers(0, 2**31))
def test_a_cell_is_the_mean_of_what_it_covers(rows: int, columns: int, side: int, signed: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, columns)) * (random.random((rows, columns)) < 0.4)
    one = picture("W", matrix, side, signed)
    covered = [list(np.array_split(band, one.width, 1)) for band in np.array_split(matrix, one.height, 0)]
    mean = (lambda cell: cell.mean()) if signed else (lambda cell: np.sqrt((cell**2).mean()))
    wanted = np.array([[mean(cell) for cell in band] for band in covered])
    assert np.allclose(drawn(one), wanted, atol=one.top / 127)
    if not signed:
        levels = np.frombuffer(b64decode(one.cells), np.uint8).reshape(wanted.shape)
        assert np.array_equal(levels == 0, wanted == 0)
    assert max(one.height, one.width) <= side


def test_the_edges_of_a_map_are_the_sums_of_its_rows_and_columns() -> None:
    norms = np.arange(12.0).reshape(3, 4)
    one = block_map(norms, 8)
    assert one.row_sums == (6.0, 22.0, 38.0)
    assert one.column_sums == (12.0, 15.0, 18.0, 21.0)
    assert drawn(one.norms) == pytest.approx(norms, abs=11 / 254)


def test_the_map_of_a_factored_layer_is_that_of_its_fold_and_of_its_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    factored = kx.factorize(models.mlp(64, 96, 32), rank=2, block=(8, 16), zero_start=None)
    with torch.no_grad():
        for factors in kx.factors(factored).values():
            factors.S[torch.rand(factors.S.shape) < 0.7] = 0
    exported = kx.export_onnx(factored, tmp_path / "mlp.onnx", torch.randn(2, 64), lowering="blocks")
    reports = [kx.inspect(one) for one in (factored, kx.fold(factored), exported)]
    for name, layer in kx.factors(factored).items():
        blocks = layer.materialize().reshape(layer.shape.m1, 8, layer.shape.n1, 16)
        norms = blocks.square().sum((1, 3)).sqrt().detach().numpy()
        for report in reports:
            sheet = next(sheet for sheet in report.page.sheets if sheet.site == name)
            assert sheet.map is not None
            assert drawn(sheet.map.norms) == pytest.approx(norms, abs=float(norms.max()) / 200)
    assert all("map" not in layer for layer in json.loads(json.dumps(exported.to_dict()))["layers"])


def test_what_raced_is_told_with_its_times(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(256, 256)).eval()
    model[0].weight.data.view(16, 16, 16, 16).mul_(torch.rand(16, 1, 16, 1) < 0.1)
    torch.onnx.export(model, (torch.randn(4, 256),), tmp_path / "in.onnx", dynamo=True, verbose=False)
    report = kx.sparsify_onnx(tmp_path / "in.onnx", tmp_path / "out.onnx", rows=(1, 64))
    (layer,) = report.layers
    ways = {(lap.way, lap.rows) for lap in layer.laps}
    assert {("dense", 1), ("dense", 64), ("blocks", 1), ("blocks", 64)} <= ways
    for lap in layer.laps:
        assert lap.seconds == next(
            t.seconds for t in report.timings.entries if (t.lowering, t.rows) == (lap.way, lap.rows)
        )
    assert report.to_html(tmp_path / "page.html").read_text().count('"laps"') == 1


@pytest.mark.parametrize("evaluation", ["a_first", "b_first", "materialize"])
def test_drawn_shapes_multiply_to_what_they_feed(evaluation: str) -> None:
    plan = kx.plan(models.mlp(24, 60, 12), rank=3, block=(4, 6), rates=None).edited("0", evaluation=evaluation)
    sheet = kx.inspect(plan).page.sheets[0]
    after = drawings(sheet)[1]
    places = {box.name: box.y for box in after.boxes}
    assert all(places[a] < places[b] for a, b, _ in after.wires)
    assert after.wires[-1] == ("MatMul 2", "y", "N × 60")
    assert len({(box.x, box.y) for box in after.boxes}) == len(after.boxes)


def test_what_is_not_known_is_left_out() -> None:
    page = html(kx.inspect(models.mlp(8, 8, 8)).page)
    for absent in ("energy", "predicted", "Left alone", "Training"):
        assert f">{absent}" not in page


def test_a_pair_names_the_layers_and_keeps_the_figures_that_both_know() -> None:
    sheets = [Sheet(f"h.{i}", "dense", 8, 8, "linear", dense=64, stored=64) for i in range(3)]
    before = Page("a", "model", tuple(sheets), gains=(Gain("entries", "", 192, 192), Gain("bytes", "bytes", 9, 99)))
    made = pair(before, Page("b", "file", tuple(sheets[2:]), gains=(Gain("zero blocks", "share", 0.5),)), "compare")
    assert made.notes == ("before only (2 of 3 layers): h.0-1 (2)",)
    assert [gain.name for gain in made.gains] == ["zero blocks", "bytes"]


def test_what_got_worse_is_no_gain() -> None:
    assert [figure(Gain("", "", after, 100)).is_loss for after in (50, 100, 101)] == [False, False, True]
