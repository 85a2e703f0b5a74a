"""One file through ``kronfx.sparsify_onnx``: what it weighs, how long it takes, whether it answers the same."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime

import kronfx as kx
from wild.files import Wild, feeds
from wild.pruned import prune

RUNS, SECONDS = 15, 0.3  # at least, of timing a file


@dataclass(frozen=True)
class Row:
    """``bytes`` and ``ms`` before and after; ``least`` the bytes of what is not zero. No ``after``: refused."""

    name: str
    pruned: bool
    before: int
    least: int
    ms_before: float
    after: int | None = None
    ms_after: float | None = None
    error: float | None = None
    note: str = ""


def check(wild: Wild, source: Path, pruned: bool, folder: Path, tune: bool = True) -> Row | None:
    """The file as it is, or with zero blocks, held against what onnxruntime makes of it itself; None where no matrix of
    it can have zero blocks."""
    removed, path = 0, source
    if pruned:
        path = folder / "pruned.onnx"
        removed = prune(source, path)
        if not removed:
            return None
    inputs, before = feeds(path, wild), path.stat().st_size
    wanted, ms_before = _answers(path, inputs)
    bare = Row(wild.name, pruned, before, before - removed, ms_before)
    target = folder / "sparse.onnx"
    try:
        report = kx.sparsify_onnx(path, target, example_inputs=inputs, tune=tune)
    except kx.KronfxError as refused:
        return Row(*_values(bare), note=str(refused).replace(str(path), "it"))
    answers, ms_after = _answers(target, inputs)
    ms_after, ms_before = (min(ms, _answers(file, inputs)[1]) for file, ms in ((target, ms_after), (path, ms_before)))
    bare = replace(bare, ms_before=ms_before)
    after = sum(file.stat().st_size for file in folder.glob("sparse.onnx*"))
    return Row(*_values(bare), after, ms_after, _error(answers, wanted), "; ".join(report.notes))


def _values(row: Row) -> tuple[str, bool, int, int, float]:
    return row.name, row.pruned, row.before, row.least, row.ms_before


def _answers(path: Path, inputs: dict[str, np.ndarray]) -> tuple[list[np.ndarray], float]:
    """The outputs, and the median milliseconds of a run."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs, times = session.run(None, inputs), list[float]()
    while len(times) < RUNS or sum(times) < 1000 * SECONDS:
        start = time.perf_counter()
        session.run(None, inputs)
        times.append(1000 * (time.perf_counter() - start))
    return outputs, statistics.median(times)


def _error(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """``max|y - y_ref| / max(1, max|y_ref|)`` over all outputs; infinite where shapes or types differ."""
    if [(y.shape, y.dtype) for y in found] != [(y.shape, y.dtype) for y in wanted]:
        return float("inf")
    pairs = [(y.astype(float), z.astype(float)) for y, z in zip(found, wanted)]
    return float(max(np.abs(y - z).max(initial=0) / max(1, np.abs(z).max(initial=0)) for y, z in pairs))
