"""Which lowering is chosen: by name, by size, by seconds that the tests made up, by the cost model; and the timings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import answers, assert_same, constants, factored, onnx_file, ops, planted, sparse
from torch import nn

import kronfx as kx
from kronfx.deploy.records.report import ExportReport
from kronfx.deploy.records.timings import Timing
from kronfx.errors import ExportError

LABEL = "64x96 in 16x16, 75% zero, float32, MatMul, 2 axes"
ROWS = (1, 128)


def mlp(folder: Path, zero: float = 0.75) -> Path:
    W = planted(64, 96, (16, 16), zero)
    return onnx_file(folder / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", 96]}, {"y": ["b", 64]}, {"w": W.T})


def made_up(
    dense: tuple[float, ...], blocks: tuple[float, ...], rows: tuple[int, ...] = ROWS, label: str = LABEL
) -> Any:
    """Timings that no clock ever showed."""
    entries = [Timing(label, "dense", n, t) for n, t in zip(rows, dense, strict=True)]
    return kx.Timings(
        (*entries, *(Timing(label, "blocks", n, t) for n, t in zip(rows, blocks, strict=True))), "paper", 2
    )


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
    dst, report = sparse(mlp(tmp_path), "auto", tune=True, timings=timings)
    assert chosen(report) == [winner]
    assert (len([op for op in ops(dst) if op == "MatMul"]) > 1) == (winner == "blocks")
    assert report.timings.entries == timings.entries  # nothing was timed again


def test_nothing_is_timed_twice(tmp_path: Path) -> None:
    """Three layers, two of them alike; what is known already stays as it was."""
    weights = {"a": planted(96, 96, (16, 16), 0.5, 1), "b": planted(96, 96, (16, 16), 0.5, 2)}
    weights["c"] = planted(64, 96, (16, 16), 0.75)
    nodes = [("MatMul", "x a", "p"), ("MatMul", "p b", "q"), ("MatMul", "q c", "y")]
    transposed = {name: W.T for name, W in weights.items()}
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["n", 96]}, {"y": ["n", 64]}, transposed)
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
    _, report = sparse(mlp(tmp_path), lowering, tune=True, timings=made_up((1.0, 1.0), (3.0, 0.1)))
    assert chosen(report) == [lowering]
    _, report = sparse(mlp(tmp_path), lowering, tune=True)
    assert report.timings.entries == ()


def test_without_a_clock_a_cost_model_decides(tmp_path: Path) -> None:
    """Hardly anything left of a large weight: blocks. Hardly anything missing of a small one: dense."""
    W, V = planted(1024, 1024, (32, 32), 0.95), planted(32, 32, (4, 4), 0.1)
    for matrix, winner in ((W, "blocks"), (V, "dense")):
        m, n = matrix.shape
        src = onnx_file(
            tmp_path / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", n]}, {"y": ["b", m]}, {"w": matrix.T}
        )
        _, report = sparse(src, "auto")
        assert chosen(report) == [winner]
        assert report.timings.entries == ()


def test_the_smallest_file(tmp_path: Path) -> None:
    src = mlp(tmp_path)
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
    W = planted(64, 96, (16, 16)).T.astype(ir.DataType.BFLOAT16.numpy())
    types = dict.fromkeys("xy", TensorProto.BFLOAT16)
    src = onnx_file(
        tmp_path / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", 96]}, {"y": ["b", 64]}, {"w": W}, types, opset=20
    )
    _, report = sparse(src, "auto", tune=True, rows=1)
    assert chosen(report) == ["dense"]
    json.dumps(report.to_dict(), allow_nan=False)
    assert kx.Timings.from_json(report.timings.to_json()) == report.timings


entries = st.builds(
    Timing,
    st.text(),
    st.sampled_from(["dense", "blocks", "factors"]),
    st.integers(1, 2**40),
    st.floats(1e-9, 1e6),
)


@given(st.builds(kx.Timings, st.lists(entries).map(tuple), st.text(), st.integers(0, 4096)))
def test_timings_read_back_equal(timings: kx.Timings) -> None:
    assert kx.Timings.from_json(timings.to_json()) == timings
    json.loads(timings.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_timings_print_and_answer() -> None:
    timings = made_up((1e-3, 2e-2), (5e-4, 1e-2))
    assert timings.seconds(LABEL, "blocks", 128) == 1e-2
    assert timings.seconds(LABEL, "factors", 128) is None
    assert timings.seconds(LABEL, "blocks", 2) is None
    for word in ("timed on paper, 2 threads", LABEL, "20.000 ms", "0.500 ms", "blocks"):
        assert word in str(timings)
    here = kx.Timings.here()
    assert here.entries == ()
    assert here.threads > 0


def damaged(**changes: Any) -> str:
    good = json.loads(made_up((1.0, 2.0), (1.0, 2.0)).to_json())
    return json.dumps({**good, **changes})


ENTRY = {"layer": "a", "lowering": "dense", "rows": 1, "seconds": 1.0}
DAMAGED = {
    "no JSON": "{",
    "an empty file": "",
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "a text": '"a"',
    "deep": "[" * 100_000,
    "another format": damaged(format="other"),
    "another version": damaged(version=2),
    "no entries": damaged(entries=None),
    "entries of numbers": damaged(entries=[1]),
    "empty entries": damaged(entries=[{}]),
    "more than there is": damaged(entries=[{**ENTRY, "extra": 1}]),
    "a lowering nobody knows": damaged(entries=[{**ENTRY, "lowering": "magic"}]),
    "a list for a lowering": damaged(entries=[{**ENTRY, "lowering": []}]),
    "rows of text": damaged(entries=[{**ENTRY, "rows": "1"}]),
    "no seconds": damaged(entries=[{**ENTRY, "seconds": 0}]),
    "seconds of text": damaged(entries=[{**ENTRY, "seconds": "1"}]),
    "NaN": damaged(entries=[{**ENTRY, "seconds": float("nan")}]),
    "infinite threads": damaged(threads=float("inf")),
    "threads of text": damaged(threads="two"),
}


@pytest.mark.parametrize("kind", list(DAMAGED))
def test_damaged_timings(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ExportError, match="holds no timings .* leave timings out to measure anew"):
        kx.Timings.from_json(DAMAGED[kind])
    (tmp_path / "t.json").write_text(DAMAGED[kind])
    with pytest.raises(ExportError, match="holds no timings"):
        sparse(mlp(tmp_path), "auto", timings=tmp_path / "t.json")
    assert not (tmp_path / "sparse.onnx").exists()


def test_timings_that_are_no_text(tmp_path: Path) -> None:
    src = mlp(tmp_path)
    with pytest.raises(ExportError, match="timings"):
        sparse(src, "auto", timings=src)
    with pytest.raises(ExportError, match="No such file"):
        sparse(src, "auto", timings=tmp_path / "missing")
    with pytest.raises(ExportError, match="Is a directory"):
        sparse(src, "auto", timings=tmp_path)
    with pytest.raises(ExportError, match="timings of type int"):
        sparse(src, "auto", timings=3)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"lowering": "fast"}, "one of 'auto', 'dense', 'blocks', 'factors'"),
        ({"lowering": None}, "one of 'auto'"),
        ({"lowering": ["blocks"]}, "one of 'auto'"),
        ({"rows": ()}, "positive integers"),
        ({"rows": 0}, "positive integers"),
        ({"rows": (1, -3)}, "positive integers"),
        ({"rows": (1.5,)}, "positive integers"),
        ({"rows": 1.5}, "positive integers"),
        ({"rows": None}, "positive integers"),
        ({"rows": "1"}, "positive integers"),
        ({"optimize_for": "speed"}, "'latency' or 'size'"),
        ({"optimize_for": None}, "'latency' or 'size'"),
        ({"block": 32}, "two positive integers"),
        ({"batch_sizes": ()}, "positive integers"),
        ({"batch_sizes": 3}, "positive integers"),
        ({"batch_sizes": (0,)}, "positive integers"),
        ({"batch_sizes": (1.5,)}, "positive integers"),
        ({"batch_sizes": None}, "positive integers"),
    ],
)
def test_options_that_are_none(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    src = mlp(tmp_path)
    with pytest.raises(ExportError, match=found):
        kx.sparsify_onnx(src, tmp_path / "out.onnx", **options)
    if "block" not in options:
        with pytest.raises(ExportError, match=found):
            kx.export_onnx(nn.Linear(4, 4), tmp_path / "out.onnx", torch.randn(1, 4), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_report_of_a_tuned_file(tmp_path: Path) -> None:
    report = kx.sparsify_onnx(mlp(tmp_path), tmp_path / "dense.onnx", rows=1, batch_sizes=(1, 3))
    assert report.bytes == (tmp_path / "dense.onnx").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.onnx", "m.onnx"]
    assert [run.batch for run in report.latency] == [1, 3]
    assert all(run.dense > 0 and run.seconds > 0 for run in report.latency)
    assert report.dense_bytes is not None
    assert abs(report.dense_bytes - (tmp_path / "m.onnx").stat().st_size) < 500
    assert report.load_seconds is not None
    assert report.dense_load_seconds is not None
    for word in ("against the dense file", "batch 1", "batch 3", "load", "64x96", "16x16", "75.00%", "relative error"):
        assert word in str(report)
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["timings"]["entries"][0]["layer"] == LABEL


def test_a_file_that_is_slower_as_a_whole_runs_dense(tmp_path: Path) -> None:
    """Made-up seconds praise blocks where they cannot be fast: 2x2 blocks, hardly one of them zero."""
    W = planted(256, 256, (2, 2), 0.05)
    src = onnx_file(tmp_path / "m.onnx", [("MatMul", "x w", "y")], {"x": ["b", 256]}, {"y": ["b", 256]}, {"w": W.T})
    label = "256x256 in 2x2, 5% zero, float32, MatMul, 2 axes"
    timings = made_up((1.0,), (0.01,), (1,), label)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", rows=1, timings=timings, block=(2, 2), batch_sizes=(32,))
    assert report.timings.entries == timings.entries
    assert chosen(report) == ["dense"]
    assert "slower as a whole" in str(report)
    x = np.random.default_rng(0).standard_normal((3, 256)).astype("f")
    assert_same(answers(tmp_path / "out.onnx", x=x)[0], x.astype(float) @ W.T, 1e-5)
