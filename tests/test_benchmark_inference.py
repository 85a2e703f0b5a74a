"""The inference benchmark on one tiny case: every variant is there, right, and counted to the byte."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "benchmarks"))

from inference import Clock, Row, main, measure
from inference_files import Case, files
from inference_models import LENET, linear, maps, zero_blocks

FLOAT32 = 1e-5  # relative to max(1, max|y|); sums of 400 products


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_exactly_the_asked_share_of_blocks_is_zero(share: float) -> None:
    model = nn.Sequential(nn.Linear(40, 24), Conv1D(24, 40), nn.Linear(40, 7))
    removed = zero_blocks(model, (4, 4), share)

    grids = [W.reshape(W.shape[0] // 4, 4, -1, 4) for W in maps(model, (4, 4)).values()]
    assert [grid.shape[0] * grid.shape[2] for grid in grids] == [60, 60]  # the third has 7 rows, and stays
    zeros = [int((grid == 0).all(dim=3).all(dim=1).sum()) for grid in grids]
    assert zeros == [60 * share, 60 * share]
    assert removed == 16 * sum(zeros) == sum(int((p == 0).sum()) for p in model.parameters() if p.ndim == 2)
    assert torch.count_nonzero(model[2].weight) == 7 * 40


def test_every_variant_is_measured_against_torch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(threads=1, bursts=1, seconds=0)
    rows = measure(Case(LENET, (1, 1, 28, 28), 0.9, 4, ranks=(2,)), clock, tmp_path)

    masked = ["dense", "dense int8", "dense int4", "sparse_initializer"]
    ours = ["kronfx dense", "kronfx blocks", "kronfx auto", "kronfx auto + int8", "kronfx auto + int4"]
    assert [row.variant for row in rows if row.rank is None] == [*masked, *ours]
    assert [(row.variant, row.zero) for row in rows if row.rank == 2] == [("kronfx factors", 0), ("kronfx auto", 0)]
    assert [row.refusal for row in rows] == [""] * 11
    for row in rows:
        assert row.error < (0.1 if "int8" in row.variant else 0.5 if "int4" in row.variant else FLOAT32), row
    dense, stored = rows[0], rows[4]
    assert dense.ratio == dense.load_ratio == dense.size_ratio == 1
    zero_entries = 16 * (0.9 * 30 * 100 + 0.9 * 21 * 30)
    assert stored.bytes / stored.size_ratio == pytest.approx(dense.bytes - 4 * zero_entries)
    factored, entries = rows[-2], 120 * 400 + 84 * 120
    kept = 2 * (30 * 100 + 16) + 2 * (21 * 30 + 16)
    assert factored.bytes / factored.size_ratio == pytest.approx(dense.bytes - 4 * (entries - kept))

    earlier, again, svg = tmp_path / "rows.json", tmp_path / "again.json", tmp_path / "rows.svg"
    earlier.write_text(json.dumps([asdict(row) for row in rows]))
    main(["--from", str(earlier), "--json", str(again), "--svg", str(svg)])
    assert json.loads(again.read_text()) == json.loads(earlier.read_text())
    assert capsys.readouterr().out.count("lenet5") == svg.read_text().count("lenet5") == len(rows)


def test_one_layer_is_a_model_that_can_be_factored(tmp_path: Path) -> None:
    made = list(files(Case(linear(16, 32), (128, 32), 0.5, 4, ranks=(1,)), tmp_path))
    assert [(file.variant, file.refusal) for file in made if file.rank] == [("kronfx factors", ""), ("kronfx auto", "")]


def test_a_model_without_a_fitting_map_has_no_factored_files(tmp_path: Path) -> None:
    made = list(files(Case(linear(16, 32), (128, 32), 0.5, 5, ranks=(1,)), tmp_path))
    assert not any(file.rank for file in made)


def test_a_missed_bar_is_named() -> None:
    row = Row("a", "1x1", 0.9, 4, None, "kronfx auto", ratio=0.96, bar=0.97, size_ratio=1.06, load_ratio=1.31)
    assert row.missed == "ratio 0.97, size 1.05, load 1.3"
    fine = Row("a", "1x1", 0.9, 4, None, "kronfx auto", ratio=0.97, bar=0.97, size_ratio=1.05, load_ratio=1.3)
    assert fine.missed == ""
    dense = Row("a", "1x1", 0.9, 4, None, "sparse_initializer", ratio=0.5, size_ratio=2.0, load_ratio=4.0)
    assert dense.missed == ""
    assert Row("a", "1x1", 0.9, 4, None, "kronfx auto", refusal="deploy: no").missed == "deploy: no"
