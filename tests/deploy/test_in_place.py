"""A new file in the place of another, the source's own too: nothing is lost half way, nothing is left over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from disk import no_file_beyond, snapshot
from onnx_files import answers, assert_same, onnx_file, planted

import kronfx as kx
from kronfx.deploy.write import save

W, V = planted(128, 128, (16, 16), 0.9), planted(128, 128, (16, 16), 0.9, seed=1)
X = np.random.default_rng(0).standard_normal((3, 128)).astype("f")


def outside(path: Path, location: str = "", threshold: int = 0) -> Path:
    """Two products; their weights lie in one file beside it, or each in its own where no ``location`` is given."""
    nodes = "h = MatMul(x, w)", "y = MatMul(h, v)"
    onnx_file(path, "float[b, 128] x => float[b, 128] y", *nodes, w=W.T, v=V.T)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.name = f"{path.stem}.{tensor.name}"
    for node in model.graph.node:
        node.input[1] = f"{path.stem}.{node.input[1]}"
    onnx.save(model, path, save_as_external_data=True, all_tensors_to_one_file=bool(location),
              location=location or None, size_threshold=threshold)  # fmt: skip
    return path


def sparsified(src: Path, dst: Path) -> kx.ExportReport:
    report = kx.sparsify_onnx(src, dst, tune=False, batch_sizes=(2,))
    assert_same(answers(dst, x=X)[0], X @ W.T @ V.T)
    return report


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("location", ["m.onnx.data", "weights.bin", ""])
def test_over_the_source(tmp_path: Path, location: str) -> None:
    src = outside(tmp_path / "m.onnx", location)
    gone = [name for name in names(tmp_path) if name != "m.onnx"]
    assert gone
    report = sparsified(src, src)
    assert names(tmp_path) == ["m.onnx"]
    assert [name for name in gone if not any(name in note and "is removed" in note for note in report.notes)] == []
    assert report.bytes == src.stat().st_size
    assert sparsified(src, src).notes  # once more: there is nothing to remove
    assert names(tmp_path) == ["m.onnx"]


def test_over_an_earlier_result_with_data_of_another_name(tmp_path: Path) -> None:
    src = outside(tmp_path / "m.onnx", "m.data")
    outside(tmp_path / "out.onnx", "old.bin")
    sparsified(src, tmp_path / "out.onnx")
    assert names(tmp_path) == ["m.data", "m.onnx", "out.onnx"]


def test_over_an_earlier_result_by_an_export(tmp_path: Path) -> None:
    outside(tmp_path / "out.onnx", "old.bin")
    kx.export_onnx(torch.nn.Linear(8, 8), tmp_path / "out.onnx", torch.randn(2, 8), tune=False, verify=False)
    assert names(tmp_path) == ["out.onnx"]


def shared(folder: Path) -> str:
    src = outside(folder / "m.onnx", "m.data")
    (folder / "other.onnx").write_bytes(src.read_bytes())
    return "other.onnx has its data there too"


def named_by_a_stranger(folder: Path) -> str:
    """The file says that its data is in one that holds more than that."""
    outside(folder / "m.onnx", "m.data")
    with (folder / "m.data").open("ab") as file:
        file.write(b"a thesis")
    return "there is more in it"


@pytest.mark.parametrize("make", [shared, named_by_a_stranger])
def test_what_is_not_the_files_own_stays(tmp_path: Path, make: Callable[[Path], str]) -> None:
    why = make(tmp_path)
    before = (tmp_path / "m.data").read_bytes()
    report = sparsified(tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert (tmp_path / "m.data").read_bytes() == before
    assert any("m.data" in note and why in note for note in report.notes)


def test_data_that_the_source_goes_on_to_need_stays(tmp_path: Path) -> None:
    """The source lies in the folder above, where nobody looks for who reads it."""
    (tmp_path / "below").mkdir()
    src = outside(tmp_path / "m.onnx", "below/m.data")
    old = outside(tmp_path / "below" / "out.onnx", "old.data")
    model = onnx.load(old, load_external_data=False)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "m.data"
    old.write_bytes(model.SerializeToString())
    sparsified(src, old)
    assert_same(answers(src, x=X)[0], X @ W.T @ V.T)


def test_a_disk_that_fills_up_leaves_source_and_data(tmp_path: Path) -> None:
    src = outside(tmp_path / "m.onnx", "m.onnx.data")
    before = snapshot(tmp_path)
    with no_file_beyond(2000), pytest.raises(kx.KronfxError, match="cannot write"):
        kx.sparsify_onnx(src, src, tune=False)
    assert snapshot(tmp_path) == before


def test_data_of_a_new_file_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    """So that the file which was there is whole until the new one takes its place."""
    model = ir.load(onnx_file(tmp_path / "m.onnx", "float[b, 128] x => float[b, 128] y", "y = MatMul(x, w)", w=W.T))
    (tmp_path / "staged").mkdir()
    for taken, expected in (((), "m.onnx.data"), (("m.onnx.data",), "m.onnx.2.data")):
        for name in taken:
            (tmp_path / name).write_bytes(b"")
        save(model, tmp_path / "staged" / "m.onnx", tmp_path / "m.onnx", limit=2**24 + 1000)
        assert (tmp_path / "staged" / expected).stat().st_size >= W.nbytes
        assert_same(answers(tmp_path / "staged" / "m.onnx", x=X)[0], X @ W.T)
