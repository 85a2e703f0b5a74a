"""Timings as values: printed, asked, written and read back, and refused where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import LABEL, made_up, product, sparse

import kronfx as kx
from kronfx.deploy.records.timings import Timing
from kronfx.errors import ExportError

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
        sparse(product(tmp_path / "m.onnx"), "auto", timings=tmp_path / "t.json")
    assert not (tmp_path / "sparse.onnx").exists()


def test_timings_that_are_no_text(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="timings"):
        sparse(src, "auto", timings=src)
    with pytest.raises(ExportError, match="No such file"):
        sparse(src, "auto", timings=tmp_path / "missing")
    with pytest.raises(ExportError, match="Is a directory"):
        sparse(src, "auto", timings=tmp_path)
    with pytest.raises(ExportError, match="timings of type int"):
        sparse(src, "auto", timings=3)
