"""Which lowering is chosen: by name, by size, by seconds that the tests made up, by the cost model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from models import factored
from onnx_files import (
    LABEL,
    TIMED,
    answers,
    assert_same,
    constants,
    made_up,
    normal,
    onnx_file,
    ops,
    planted,
    product,
    sparse,
)
from torch import nn

import kronfx as kx
from kronfx.deploy.records.report import ExportReport
from kronfx.deploy.records.timings import Timing


def chosen(report: ExportReport) -> list[str]:
    return [layer.lowering for layer in report.layers]


@pytest.mark.parametrize(
    ("dense", "blocks", "winner"),
    [
        ((1e-3, 1e-2), (5e-4, 5e-3), "blocks"),
        ((1e-3, 1e-2), (1e-3, 5e-3), "blocks"),  # faster at many rows, equal at one
        ((1e-3, 1e-2), (1e-3, 1e-2), "dense"),  # a tie
        ((1e-3, 1e-2), (0.98e-3, 0.98e-2), "dense"),  # within 3%: a tie too
        ((1e-3, 1e-2), (0.96e-3, 0.96e-2), "blocks"),
        ((1e-3, 1e-2), (1.2e-3, 1e-3), "dense"),  # ten times faster at 128 rows, 20% slower at one
        ((1e-3, 1e-2), (1e-4, 1.2e-2), "dense"),  # the other way round
        ((1e-5, 1e-2), (1.2e-5, 1e-3), "blocks"),  # 20% slower at one row, but by two microseconds: noise
        ((1e-3, 1e-2), (2e-3, 2e-2), "dense"),
    ],
)
def test_the_choice_follows_the_seconds(
    tmp_path: Path, dense: tuple[float, ...], blocks: tuple[float, ...], winner: str
) -> None:
    timings = made_up(dense, blocks)
    dst, report = sparse(product(tmp_path / "m.onnx", TIMED), "auto", tune=True, timings=timings)
    assert chosen(report) == [winner]
    assert (len([op for op in ops(dst) if op == "MatMul"]) > 1) == (winner == "blocks")
    assert report.timings.entries == timings.entries  # nothing was timed again


def test_nothing_is_timed_twice(tmp_path: Path) -> None:
    """Three layers, two of them alike; what is known already stays as it was."""
    nodes = """
        p = MatMul(x, a)
        q = MatMul(p, b)
        y = MatMul(q, c)
    """
    weights = {"a": planted(96, 96, (16, 16), 0.5, 1).T, "b": planted(96, 96, (16, 16), 0.5, 2).T, "c": TIMED.T}
    src = onnx_file(tmp_path / "m.onnx", "float[n, 96] x => float[n, 64] y", nodes, **weights)
    known = made_up((3.0,), (1.0,), (1,))
    _, report = sparse(src, "auto", tune=True, rows=(1, 2), timings=known)
    keys = [(entry.layer, entry.lowering, entry.rows) for entry in report.timings.entries]
    assert len(keys) == len(set(keys)) == 2 * 2 * 2  # two kinds of layers, two lowerings, two row counts
    assert report.timings.entries[:2] == known.entries
    assert all(0 < entry.seconds < 1 for entry in report.timings.entries[2:])

    (tmp_path / "t.json").write_text(report.timings.to_json())
    for timings in (report.timings, tmp_path / "t.json", str(tmp_path / "t.json")):
        _, again = sparse(src, "auto", tune=True, rows=(1, 2), timings=timings)
        assert again.timings.entries == report.timings.entries
        assert chosen(again) == chosen(report)


def test_factors_are_timed_like_the_rest(tmp_path: Path) -> None:
    layer = factored((6, 4, 8, 16), 2, "a_first", bias=False)
    report = kx.export_onnx(nn.Sequential(layer), tmp_path / "f.onnx", torch.randn(2, 64), rows=3, verify=False)
    timed = {entry.lowering: entry for entry in report.timings.entries}
    assert set(timed) == {"dense", "blocks", "factors"}
    assert {entry.rows for entry in timed.values()} == {3}
    label = timed["dense"].layer
    assert "48x64 in 8x16" in label
    assert "rank 2" in label

    for winner in timed:
        seconds = {name: 1e-3 if name == winner else 1e-2 for name in timed}
        entries = tuple(Timing(label, name, 3, value) for name, value in seconds.items())
        options: dict[str, Any] = {"rows": 3, "verify": False, "timings": kx.Timings(entries)}
        report = kx.export_onnx(nn.Sequential(layer), tmp_path / "f.onnx", torch.randn(2, 64), **options)
        assert chosen(report) == [winner]
        assert report.timings.entries == entries


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_what_is_asked_for_needs_no_clock(tmp_path: Path, lowering: str) -> None:
    _, report = sparse(
        product(tmp_path / "m.onnx", TIMED), lowering, tune=True, timings=made_up((1.0, 1.0), (3.0, 0.1))
    )
    assert chosen(report) == [lowering]
    _, report = sparse(product(tmp_path / "m.onnx", TIMED), lowering, tune=True)
    assert report.timings.entries == ()


def test_without_a_clock_a_cost_model_decides(tmp_path: Path) -> None:
    """Hardly anything left of a large weight: blocks. Hardly anything missing of a small one: dense."""
    W, V = planted(1024, 1024, (32, 32), 0.95), planted(32, 32, (4, 4), 0.1)
    for matrix, winner in ((W, "blocks"), (V, "dense")):
        _, report = sparse(product(tmp_path / "m.onnx", matrix), "auto")
        assert chosen(report) == [winner]
        assert report.timings.entries == ()


def test_the_smallest_file(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx", TIMED)
    sizes = {name: sparse(src, name)[1].layers[0].bytes for name in ("dense", "blocks")}
    _, report = sparse(src, "auto", optimize_for="size", tune=True, timings=made_up((1.0, 1.0), (0.1, 0.1)))
    assert report.layers[0].bytes == min(sizes.values())


@pytest.mark.parametrize(("shape", "winner"), [((6, 4, 8, 16), "dense"), ((32, 32, 32, 32), "factors")])
def test_of_files_as_small_the_one_of_less_work(tmp_path: Path, shape: tuple[int, int, int, int], winner: str) -> None:
    """A layer that runs dense is stored as its factors, too."""
    layer, path = factored(shape, 2, "a_first", bias=False), tmp_path / "m.onnx"
    m1, n1, m2, n2 = shape
    options: dict[str, Any] = {"optimize_for": "size", "verify": False}
    report = kx.export_onnx(nn.Sequential(layer), path, torch.randn(2, n1 * n2), **options)
    assert chosen(report) == [winner]
    assert constants(path) == 2 * (m1 * n1 + m2 * n2) == report.layers[0].bytes // 4


def test_a_type_that_onnxruntime_does_not_run_stays_dense(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx", TIMED.astype(ir.DataType.BFLOAT16.numpy()))
    _, report = sparse(src, "auto", tune=True, rows=1)
    assert chosen(report) == ["dense"]
    json.dumps(report.to_dict(), allow_nan=False)
    assert kx.Timings.from_json(report.timings.to_json()) == report.timings


def test_the_report_of_a_tuned_file(tmp_path: Path) -> None:
    report = kx.sparsify_onnx(product(tmp_path / "m.onnx", TIMED), tmp_path / "dense.onnx", rows=1, batch_sizes=(1, 3))
    assert report.bytes == (tmp_path / "dense.onnx").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.onnx", "m.onnx"]
    assert [run.batch for run in report.latency] == [1, 3]
    assert all(run.dense > 0 and run.seconds > 0 for run in report.latency)
    assert report.dense_bytes is not None
    assert abs(report.dense_bytes - (tmp_path / "m.onnx").stat().st_size) < 500
    assert report.load_seconds is not None
    assert report.dense_load_seconds is not None
    for word in ("against the source file", "batch 1", "batch 3", "load", "64x96", "16x16", "75.00%", "relative error"):
        assert word in str(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["timings"]["entries"][0]["layer"] == LABEL


def test_a_file_that_is_slower_as_a_whole_runs_dense(tmp_path: Path) -> None:
    """Made-up seconds praise blocks where they cannot be fast: 2x2 blocks, hardly one of them zero."""
    W = planted(256, 256, (2, 2), 0.05)
    src = product(tmp_path / "m.onnx", W)
    label = "256x256 in 2x2, 5% zero, float32, MatMul, 2 axes"
    timings = made_up((1.0,), (0.01,), (1,), label)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", rows=1, timings=timings, block=(2, 2), batch_sizes=(32,))
    assert report.timings.entries == timings.entries
    assert chosen(report) == ["dense"]
    assert "slower as a whole" in str(report)
    x = normal(3, 256)
    assert_same(answers(tmp_path / "out.onnx", x=x)[0], x.astype(float) @ W.T, 1e-5)
