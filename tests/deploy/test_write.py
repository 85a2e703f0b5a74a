"""Where a file goes: over its source, through a link, beside its data; and what it says of itself."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_files import SMALL, answers, assert_same, normal, planted, product, sparse

import kronfx as kx
from kronfx import deploy
from kronfx.deploy import pipeline
from kronfx.deploy.write import save

LARGE = planted(480, 640)


def test_the_same_path_twice(tmp_path: Path) -> None:
    path = product(tmp_path / "m.onnx")
    x = normal(3, 64)
    (wanted,), size = answers(path, x=x), path.stat().st_size
    report = kx.sparsify_onnx(path, path, lowering="blocks", tune=False)
    assert report.bytes == path.stat().st_size < size
    assert_same(answers(path, x=x)[0], wanted, 1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    src, link = product(tmp_path / "m.onnx"), tmp_path / "link.onnx"
    (tmp_path / "real").mkdir()
    link.symlink_to(tmp_path / "real" / "model.onnx")
    report = kx.sparsify_onnx(str(src), str(link), verify=False, tune=False)
    assert link.is_symlink()
    assert (tmp_path / "real" / "model.onnx").stat().st_size == report.bytes


def external(src: Path) -> Path:
    """The same model with its weights in ``m.bin`` beside it."""
    model = onnx.load(src)
    onnx.save(model, src, save_as_external_data=True, location="m.bin", size_threshold=0)
    return src.with_name("m.bin")


def test_a_source_with_external_data(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx")
    data = external(src)
    before = src.read_bytes(), data.read_bytes()
    (tmp_path / "out").mkdir()
    report = kx.sparsify_onnx(src, tmp_path / "out" / "m.onnx", lowering="blocks", tune=False)
    assert (src.read_bytes(), data.read_bytes()) == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.onnx"]
    assert report.bytes == (tmp_path / "out" / "m.onnx").stat().st_size
    data.unlink()
    x = normal(3, 64)
    assert_same(answers(tmp_path / "out" / "m.onnx", x=x)[0], x.astype(float) @ SMALL.T, 1e-5)


def test_external_data_over_itself(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx")
    external(src)
    kx.sparsify_onnx(src, src, lowering="blocks", tune=False)
    x = normal(3, 64)
    assert_same(answers(src, x=x)[0], x.astype(float) @ SMALL.T, 1e-5)


def test_a_model_past_the_limit_of_one_file(tmp_path: Path) -> None:
    """With the limit lowered: weights go beside the file, and the pair is one model."""
    src = product(tmp_path / "m.onnx", LARGE)
    dst, _ = sparse(src, "dense")
    model, out = ir.load(dst), tmp_path / "out" / "large.onnx"
    out.parent.mkdir()
    size = save(model, out, out, limit=2**24 + 1000)  # 16 MiB are left for what is no weight
    assert sorted(path.name for path in out.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert size == sum(path.stat().st_size for path in out.parent.iterdir())
    assert out.stat().st_size < 10_000 < out.with_name("large.onnx.data").stat().st_size
    onnx.checker.check_model(str(out), full_check=True)
    x = normal(3, 640)
    assert_same(answers(out, x=x)[0], x.astype(float) @ LARGE.T, 1e-5)
    small = tmp_path / "small.onnx"
    assert save(ir.load(dst), small, small, limit=2**24 + 2**21) == small.stat().st_size


def test_a_large_model_is_verified_and_moved_with_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "save", lambda model, path, target: save(model, path, target, limit=2**24 + 1000))
    src, out = product(tmp_path / "m.onnx", LARGE), tmp_path / "out" / "large.onnx"
    out.parent.mkdir()
    report = kx.sparsify_onnx(src, out, lowering="blocks", rows=1)
    assert report.max_error is not None
    assert sorted(path.name for path in out.parent.iterdir()) == ["large.onnx", "large.onnx.data"]
    assert report.bytes == sum(path.stat().st_size for path in out.parent.iterdir())
    x = normal(3, 640)
    assert_same(answers(out, x=x)[0], x.astype(float) @ LARGE.T, 1e-5)
    assert [layer.lowering for layer in deploy.read(out).layers] == ["blocks"]


def test_what_the_file_says_of_itself(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx")
    model = onnx.load(src)
    entry = model.metadata_props.add()
    entry.key, entry.value = "license", "mine"
    onnx.save(model, src)
    dst, report = sparse(src)
    written = onnx.load(dst)
    assert {entry.key for entry in written.metadata_props} == {"license", "kronfx"}
    assert written.producer_name == "kronfx"
    assert str(tmp_path).encode() not in dst.read_bytes()
    assert deploy.read(dst).layers == report.layers


def test_sessions_of_the_caller_go_on(tmp_path: Path) -> None:
    src = product(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(src), providers=["CPUExecutionProvider"])
    x = np.ones((2, 64), "f")
    before = copy.deepcopy(session.run(None, {"x": x}))
    kx.sparsify_onnx(src, src, lowering="blocks", tune=False)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], before[0])
