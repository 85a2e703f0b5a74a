"""Strangers' small files, as they are and pruned; ``python tests/wild/table.py`` takes them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_files import onnx_file
from wild.check import check
from wild.files import WILD, Unreachable, Wild, cache_folder, fetch
from wild.pruned import ZERO, prune

TOLERANCE = 1e-4  # float32, relative to max(1, max|y|)
SMALL = [wild for wild in WILD if wild.small]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where packages are kept: for this run, or in the folder that the user names."""
    return cache_folder(tmp_path_factory.mktemp("wild"))


@pytest.mark.parametrize("pruned", [False, True], ids=["as it is", "pruned"])
@pytest.mark.parametrize("wild", SMALL, ids=lambda wild: wild.name)
def test_a_strangers_file(wild: Wild, pruned: bool, cache: Path, tmp_path: Path) -> None:
    try:
        source = fetch(wild, cache)
    except Unreachable as why:
        pytest.skip(str(why))
    row = check(wild, source, pruned, tmp_path, tune=False)
    if row is None:
        pytest.skip(f"{wild.file} has no matrix that can be cut into blocks")
    assert row.after is not None, row.note
    assert row.error <= TOLERANCE
    assert row.after <= 1.02 * row.before


def test_what_is_pruned_and_what_is_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"a": (96, 64), "b": (64, 96), "c": (1, 96, 128), "e": (64, 16), "f": (96, 96)}
    arrays = {name: rng.standard_normal(dims).astype(np.float32) for name, dims in weights.items()}
    nodes = "p = MatMul(x, a)", "t = Transpose<perm=[1, 0]>(b)", "q = MatMul(x, t)", "r = MatMul(x, c)"
    nodes += "o = MatMul(p, e)", "s = Add(f, f)"
    signature = "float[n, 96] x => float[n, 16] o, float[n, 64] q, float[1, n, 128] r, float[96, 96] s"
    path = onnx_file(tmp_path / "m.onnx", signature, *nodes, **arrays)
    removed = prune(path, tmp_path / "pruned.onnx")
    written = onnx.load(tmp_path / "pruned.onnx").graph.initializer
    zeros = {tensor.name: int((numpy_helper.to_array(tensor) == 0).sum()) for tensor in written}
    assert {name for name, count in zeros.items() if count} == {"a", "b", "c"}
    assert removed == 4 * sum(zeros.values()) == 4 * 32 * 32 * sum(round(ZERO * count) for count in (6, 6, 12))
