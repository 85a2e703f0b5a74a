"""Who may read a file: what takes the place of another has its permissions, a new one those that the umask leaves."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
from onnx_files import onnx_file, planted, product
from torch import nn

import kronfx as kx
from kronfx.deploy import pipeline, write
from kronfx.errors import ExportError
from kronfx.files import staged

Write = Callable[[Path], None]
FULL = planted(96, 96, (8, 8), 0.5)


def source(path: Path) -> Path:
    return product(path, FULL)


def sparsified(path: Path) -> None:
    kx.sparsify_onnx(source(path.with_name("source.onnx")), path, tune=False)


def unchanged(path: Path) -> None:
    """Nothing to gain: the source's own bytes."""
    src = onnx_file(path.with_name("source.onnx"), "float[b, 4] x => float[b, 4] y", "y = Relu(x)")
    kx.sparsify_onnx(src, path, tune=False)


def exported(path: Path) -> None:
    kx.export_onnx(nn.Linear(4, 4), path, torch.randn(2, 4), tune=False)


def reported(path: Path) -> None:
    kx.inspect(nn.Linear(4, 4)).to_html(path)


WRITES: list[Write] = [sparsified, unchanged, exported, reported]


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Set it for a test."""
    before = os.umask(0o022)
    yield lambda mask: os.umask(mask) and None
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write_to", WRITES)
@pytest.mark.parametrize("wanted", [0o600, 0o640, 0o664, 0o444, 0o777])
def test_a_file_in_the_place_of_another(tmp_path: Path, write_to: Write, wanted: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    path.chmod(wanted)
    write_to(path)
    assert path.read_bytes() != b"before"
    assert mode(path) == wanted


@pytest.mark.parametrize("write_to", WRITES)
@pytest.mark.parametrize(("mask", "wanted"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0, 0o666)])
def test_a_new_file(tmp_path: Path, write_to: Write, mask: int, wanted: int, umask: Callable[[int], None]) -> None:
    umask(mask)
    write_to(tmp_path / "m.onnx")
    assert mode(tmp_path / "m.onnx") == wanted


def test_the_source_over_itself_and_through_a_link(tmp_path: Path) -> None:
    src, link = source(tmp_path / "m.onnx"), tmp_path / "link.onnx"
    link.symlink_to(src)
    for path in (src, link):
        src.chmod(0o640)
        kx.sparsify_onnx(src, path, tune=False)
        assert mode(src) == 0o640
    assert link.is_symlink()


def test_data_beside_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: Callable[[int], None]) -> None:
    """Of a model too large for one file, with the limit lowered: new, and in the place of others."""
    save = write.save
    monkeypatch.setattr(pipeline, "save", lambda model, path, target: save(model, path, target, limit=2**24 + 1000))
    umask(0o027)
    for wanted in (0o640, 0o600, 0o666):
        kx.sparsify_onnx(source(tmp_path / "source.onnx"), tmp_path / "m.onnx", tune=False)
        files = sorted(tmp_path.glob("m.onnx*"))  # data of another name than what it replaces, which goes
        assert [mode(path) for path in files] == [wanted] * 2
        for path in files:
            path.chmod({0o640: 0o600, 0o600: 0o666, 0o666: 0}[wanted])


def test_a_checkpoint_in_the_place_of_another(tmp_path: Path) -> None:
    model, folder = (
        kx.factorize(nn.Sequential(nn.Linear(64, 64)), kx.plan(nn.Sequential(nn.Linear(64, 64)))),
        tmp_path / "c",
    )
    kx.save(model, folder)
    modes = {folder: 0o700, **dict.fromkeys(folder.iterdir(), 0o600)}
    for path, wanted in modes.items():
        path.chmod(wanted)
    kx.save(model, folder)
    assert {path: mode(path) for path in modes} == modes


def test_nobody_reads_a_file_before_its_time(tmp_path: Path, umask: Callable[[int], None]) -> None:
    """What waits for its name lies in a folder of its owner's."""
    umask(0)
    with staged(tmp_path / "m.onnx", ExportError) as path:
        path.write_bytes(b"secret")
        assert mode(path.parent) == 0o700
    assert mode(tmp_path / "m.onnx") == 0o666


def test_what_is_no_file_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ExportError, match="no regular file"):
            kx.sparsify_onnx(source(tmp_path / "m.onnx"), path, tune=False)
        assert not path.is_file()
    assert onnx.load(tmp_path / "m.onnx").graph.node
    for impossible in ("a\0b", b"bytes"):
        with pytest.raises(ExportError, match="cannot write"):
            kx.sparsify_onnx(source(tmp_path / "m.onnx"), impossible, tune=False)
