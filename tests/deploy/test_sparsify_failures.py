"""What ``sparsify_onnx`` cannot take: a sentence each, the source untouched, nothing left behind."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from disk import no_file_beyond, snapshot
from onnx_files import SMALL, onnx_file, planted, product

import kronfx as kx
from kronfx.deploy import pipeline
from kronfx.deploy.lower.lowerings import operands
from kronfx.deploy.lower.lowerings.buckets import Bucket
from kronfx.deploy.records.timings import Timing
from kronfx.errors import ExportError, VerificationError

BEFORE = b"what was there before"


def refused(src: Any, dst: Path, error: type[ExportError] = ExportError, **options: Any) -> str:
    """The sentence, once it is sure that nothing was touched; what was at ``dst`` included."""
    dst.write_bytes(BEFORE)
    before = snapshot(dst.parent)
    with pytest.raises(error) as caught:
        kx.sparsify_onnx(src, dst, **{"tune": False, **options})
    assert type(caught.value) is error
    assert snapshot(dst.parent) == before
    sentence = str(caught.value)
    assert sentence.startswith("export: ")
    assert sentence.count("; ") >= 2  # what was found, what is needed, what to do
    return sentence


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


CONTENTS: dict[str, bytes | slice] = {
    "text": b"certainly no protobuf",
    "empty": b"",
    "JSON": b'{"graph": {}}',
    "zeros": bytes(1000),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "a tensor": onnx.numpy_helper.from_array(np.ones(4)).SerializeToString(),
    "a few bytes of a model": slice(10),
    "a half": slice(6000),
    "all but one byte": slice(-1),
}


@pytest.mark.parametrize("kind", list(CONTENTS))
def test_what_is_no_onnx_file(tmp_path: Path, dst: Path, kind: str) -> None:
    src = tmp_path / "src.onnx"
    content = CONTENTS[kind]
    src.write_bytes(product(src).read_bytes()[content] if isinstance(content, slice) else content)
    sentence = refused(src, dst)
    assert str(src) in sentence
    assert "needed an ONNX file" in sentence


def test_paths_that_lead_nowhere(tmp_path: Path, dst: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.onnx", dst)
    assert "Is a directory" in refused(tmp_path, dst)


@pytest.mark.parametrize("src", [None, 3, b"\x00", object()])
def test_a_source_that_is_no_path(dst: Path, src: Any) -> None:
    assert refused(src, dst)


@pytest.mark.parametrize("target", [None, 3])
def test_a_destination_that_is_no_path(tmp_path: Path, target: Any) -> None:
    with pytest.raises(ExportError):
        kx.sparsify_onnx(product(tmp_path / "src.onnx"), target, tune=False)


@pytest.mark.parametrize("opset", [1, 6])
def test_an_opset_that_is_too_old(tmp_path: Path, dst: Path, opset: int) -> None:
    sentence = refused(product(tmp_path / "src.onnx", opset=opset), dst)
    assert f"opset {opset}; needed opset 7 or later; export it anew" in sentence


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_that_are_not_finite(tmp_path: Path, dst: Path, value: float, dtype: Any) -> None:
    W = SMALL.astype(dtype)
    W[3, 5] = value
    src = product(tmp_path / "src.onnx", W)
    assert "w: NaN or infinite entries in a weight" in refused(src, dst)


def test_infinite_masks_are_no_weights(tmp_path: Path, dst: Path) -> None:
    nodes = """
        h = MatMul(x, w)
        y = Add(h, mask)
    """
    mask = np.array([-np.inf] + [0] * 47, "f")
    src = onnx_file(tmp_path / "s.onnx", "float[b, 64] x => float[b, 48] y", nodes, w=SMALL.T, mask=mask)
    assert kx.sparsify_onnx(src, dst, lowering="blocks", tune=False).max_error is not None
    square = np.triu(np.full((5, 5), -np.inf, "f"), 1)  # a causal mask has two dimensions too
    nodes = """
        h = MatMul(x, w)
        s = MatMul(h, w2)
        y = Add(s, mask)
    """
    signature, narrow = "float[b, 5, 64] x => float[b, 5, 5] y", planted(5, 48, (1, 8)).T
    src = onnx_file(tmp_path / "s.onnx", signature, nodes, w=SMALL.T, w2=narrow, mask=square)
    assert kx.sparsify_onnx(src, dst, lowering="blocks", tune=False).max_error is not None


@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
@pytest.mark.parametrize("verify", [True, False])
def test_external_data_that_is_not_there(tmp_path: Path, dst: Path, damage: str, verify: bool) -> None:
    src, data = product(tmp_path / "src.onnx"), tmp_path / "src.bin"
    onnx.save(onnx.load(src), src, save_as_external_data=True, location=data.name, size_threshold=0)
    if damage == "missing":
        data.unlink()
    else:
        data.write_bytes(b"12" if damage == "short" else b"")
    sentence = refused(src, dst, verify=verify)
    assert "external data" in sentence
    assert str(src) in sentence


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize("large", [False, True])
def test_a_disk_that_fills_up(
    tmp_path: Path, dst: Path, lowering: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses the write half way through: here because no file may grow past 4 KiB."""
    if large:
        save = pipeline.save
        monkeypatch.setattr(pipeline, "save", lambda model, path, target: save(model, path, target, limit=2**24 + 1000))
    src = product(tmp_path / "src.onnx", planted(96, 96, (8, 8), 0.5))
    with no_file_beyond(4096):
        sentence = refused(src, dst, lowering=lowering)
    assert sentence.startswith(f"export: cannot write {dst}: ")


def test_a_disk_that_fills_up_over_the_source(tmp_path: Path) -> None:
    src = product(tmp_path / "src.onnx", planted(96, 96, (8, 8), 0.5))
    before = snapshot(tmp_path)
    with no_file_beyond(4096), pytest.raises(ExportError, match="File too large"):
        kx.sparsify_onnx(src, src, tune=False)
    assert snapshot(tmp_path) == before


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the answer of the system is given for it."""
    src, folder = product(tmp_path / "src.onnx"), tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != folder)
    with pytest.raises(ExportError, match="its folder is read-only; needed .*; choose another path"):
        kx.sparsify_onnx(src, folder / "out.onnx", tune=False)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("name", "found"),
    [("", "it is a folder"), ("missing/m.onnx", "its folder is missing"), ("src.onnx/m.onnx", "is no folder")],
)
def test_a_destination_that_cannot_be(tmp_path: Path, name: str, found: str) -> None:
    src = product(tmp_path / "src.onnx")
    before = snapshot(tmp_path)
    with pytest.raises(ExportError, match=found):
        kx.sparsify_onnx(src, tmp_path / name, tune=False)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("target", ["out.onnx", "src.onnx"])
def test_a_lowering_that_computes_something_else(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is not an ornament: buckets that lie about one number are found out."""
    src, packed = product(tmp_path / "src.onnx"), operands.pack

    def lying(*arguments: Any) -> list[Bucket]:
        first, *others = packed(*arguments)
        weights = first.weights.copy()
        weights.flat[0] += 0.01
        return [Bucket(first.rows, first.columns, weights), *others]

    monkeypatch.setattr(operands, "pack", lying)
    before = snapshot(tmp_path)
    with pytest.raises(VerificationError, match="a relative error of .* at batch size .*; needed at most 1e-04"):
        kx.sparsify_onnx(src, tmp_path / target, lowering="blocks", tune=False)
    assert snapshot(tmp_path) == before
    kx.sparsify_onnx(src, tmp_path / "out.onnx", lowering="blocks", tune=False, verify=False)
    assert (tmp_path / "out.onnx").exists()


def test_the_dense_second_try_that_fails_leaves_what_was_there(
    tmp_path: Path, dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slower as a whole, then written dense: a failure of that one leaves neither of the two."""
    src = product(tmp_path / "src.onnx")
    timings = kx.Timings(
        tuple(
            Timing("48x64 in 8x8, 75% zero, float32, MatMul, 2 axes", name, 1, seconds)
            for name, seconds in (("dense", 1.0), ("blocks", 0.1))
        )
    )
    monkeypatch.setattr(pipeline, "winner", lambda *_: None)
    timed, seen = pipeline.race, []

    def failing(files: Any, cases: Any) -> Any:
        seen.append(len(files))
        if len(seen) == 2:
            raise VerificationError("", "the last", "none", "nothing")
        return timed(files, cases)

    monkeypatch.setattr(pipeline, "race", failing)
    assert "the last" in refused(src, dst, VerificationError, tune=True, rows=1, timings=timings)
    assert seen == [2, 1]  # the dense file and the blocks, then the dense lowering


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path, dst: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    src = product(tmp_path / "src.onnx")
    monkeypatch.setattr(pipeline, "check", interrupted)
    dst.write_bytes(BEFORE)
    before = snapshot(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        kx.sparsify_onnx(src, dst, tune=False)
    assert snapshot(tmp_path) == before


def test_a_source_that_onnxruntime_does_not_load(tmp_path: Path, dst: Path) -> None:
    src = product(tmp_path / "src.onnx")
    model = onnx.load(src)
    model.graph.node[0].domain = "nobody"
    model.opset_import.add(domain="nobody", version=1)
    onnx.save(model, src)
    assert "onnxruntime cannot load" in refused(src, dst, VerificationError)
    (layer,) = kx.sparsify_onnx(src, dst, tune=False, verify=False).layers
    assert layer.why == "only stored in blocks: MatMul reads it, which is no product that kronfx takes"


@pytest.mark.parametrize(
    ("example", "found"),
    [
        ({}, "the input x"),
        ({"y": np.ones((2, 64))}, "an example with inputs y; needed the input x"),
        ({"x": "text"}, "x"),
        ({"x": np.ones((2, 63), "f")}, "63"),
        ({"x": np.ones((2, 64, 1), "f")}, "x"),
        (3, "by input name"),
        (np.ones((2, 64), "f"), "by input name"),
    ],
)
def test_examples_that_do_not_fit(tmp_path: Path, dst: Path, example: Any, found: str) -> None:
    sentence = refused(product(tmp_path / "src.onnx"), dst, example_inputs=example)
    assert found in sentence or "example" in sentence
    assert "random inputs" not in sentence


def test_factors_need_a_model(tmp_path: Path, dst: Path) -> None:
    assert "factors" in refused(product(tmp_path / "src.onnx"), dst, lowering="factors")
