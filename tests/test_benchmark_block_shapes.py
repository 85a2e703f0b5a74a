"""The benchmarks of block shapes: a pair that they call misordered is one, and runs differ in the shape alone."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "benchmarks"))

import block_shapes
import block_shapes_trained
from block_shapes import Row
from block_shapes_trained import Run, Task


def test_pairs_in_another_order_than_expected_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tall, square = Row((64, 16), (1, 128), 10.0, 2.0), Row((32, 32), (1, 128), 10.0, 2.5)
    longer = [replace(tall, input=(8, 128), ms=2.5), replace(square, input=(8, 128), ms=2.0)]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([asdict(row) for row in (tall, square, *longer)]))
    block_shapes.main(["--from", str(path)])
    *_, said, wrong = capsys.readouterr().out.rstrip().splitlines()
    assert said == "1 of 2 pairs are in the expected order; not:"
    assert wrong == "  64x16 and 32x32 at 8 x 128: 4.00x and 5.00x"


def task() -> Task:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))

    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(model(x), y)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return float(loss(model, x, x))

    return Task(
        build=lambda: nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 16)),
        maps=("0",),
        batch=lambda _: (x, x),
        loss=loss,
        score=score,
        unit="loss",
        rows=64,
        rate=1e-2,
        steps=40,
        blocks=((4, 4), (8, 2)),
    )


def test_runs_differ_in_the_shape_alone() -> None:
    square, tall, again = (
        block_shapes_trained.trained(task(), block, 0.75, 0, 40) for block in ((4, 4), (8, 2), (4, 4))
    )
    assert square == again
    assert square.parameters == tall.parameters
    assert square.zero_blocks == tall.zero_blocks == 0.75
    assert square.score != tall.score
    assert (square.matrix_rank, tall.matrix_rank) == (1.0, 1.0)  # 4 min(8, 4) min(4, 4), 4 min(4, 8) min(8, 2) of 16


def test_a_mean_is_of_one_shape_and_share() -> None:
    runs = [Run((4, 4), 0.75, seed, 40, float(seed), 0.75, 100, 1.0) for seed in range(3)]
    shown = block_shapes_trained.show([*runs, replace(runs[0], block=(8, 2), score=7.0)], "loss")
    lines = [line.split()[1:6] for line in shown.splitlines() if "75%" in line]
    assert lines == [["4x4", "1.000", "0.000", "..", "2.000"], ["8x2", "7.000", "7.000", "..", "7.000"]]
