"""``kronfx bench``: every rival is made, right, counted and timed, or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_files import onnx_file, planted
from shell import kronfx, sentence

from kronfx.deploy.bench import AS_IT_IS, COMPOSED, OURS
from kronfx.deploy.rivals import RIVALS

NAMES = [AS_IT_IS, *RIVALS, OURS, *(f"{OURS} + {rival}" for rival in COMPOSED)]
# Of products of normal numbers: half a step of 8 or 4 bits, times a few standard deviations, over the largest output.
ERRORS = {AS_IT_IS: 0.0, "int8": 0.05, "int4": 0.5, OURS: 1e-4, f"{OURS} + int8": 0.05}


def two_layers(path: Path, dims: str = "b") -> Path:
    """Two products of a matrix, the second a Gemm, or of a stack; nine tenths of their blocks are zero."""
    W, V = planted(256, 128, (16, 16), 0.9), planted(64, 256, (16, 16), 0.9)
    second = "y = MatMul(g, v)" if "," in dims else "y = Gemm<transB = 1>(g, v)"
    signature = f"float[{dims}, 128] x => float[{dims}, 64] y"
    return onnx_file(path, signature, "h = MatMul(x, w)", "g = Relu(h)", second, w=W.T, v=V.T if "," in dims else V)


def test_every_rival_is_measured_at_the_rows_that_are_named(tmp_path: Path) -> None:
    file = two_layers(tmp_path / "m.onnx")
    answer = kronfx("bench", file, "--rows", "1,16", "--json")
    assert (answer.code, answer.err) == (0, "")
    (said,) = json.loads(answer.out)
    assert said["cases"] == ["1", "16"]
    assert [(one["name"], one["refusal"]) for one in said["entrants"]] == [(name, "") for name in NAMES]
    for one in said["entrants"]:
        assert one["error"] <= ERRORS[one["name"]]
        assert (len(one["seconds"]), min(one["seconds"]) > 0, one["load"] > 0) == (2, True, True)
    sizes = {one["name"]: one["bytes"] for one in said["entrants"]}
    assert sizes[AS_IT_IS] == file.stat().st_size
    assert sizes[OURS] < sizes[AS_IT_IS] / 2
    assert sizes["int4"] < sizes["int8"] < sizes[AS_IT_IS] / 2
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_rows_go_along_a_sequence_where_there_is_one(tmp_path: Path) -> None:
    file = two_layers(tmp_path / "m.onnx", "b, s")
    said = kronfx("bench", file, "--rows", "8,2x4")
    assert said.code == 0
    assert "1x8, ms" in said.out
    assert "2x4, ms" in said.out
    assert "load ms" in said.out


def test_an_example_is_run_in_place_of_random_inputs(tmp_path: Path) -> None:
    file = two_layers(tmp_path / "m.onnx", "3")
    np.savez(tmp_path / "x.npz", x=np.ones((3, 128), np.float32))
    assert json.loads(kronfx("bench", file, "--json").out)[0]["cases"] == ["fixed sizes"]
    said = kronfx("bench", file, "--json", "--example-inputs", tmp_path / "x.npz")
    assert json.loads(said.out)[0]["cases"] == ["the example"]


def test_what_cannot_be_made_has_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_model: onnx.ModelProto, _path: Path) -> None:
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setitem(RIVALS, "int8", broken)
    file = two_layers(tmp_path / "m.onnx")
    said = kronfx("bench", file, "--rows", "4")
    assert said.code == 0
    reason = f"export: {file}: onnxruntime cannot quantize it to int8 (RuntimeError: no such kernel); needed a file"
    printed = "".join(said.out.split())  # however it is broken into lines
    for name in ("int8", "kronfx + int8"):
        assert "".join(f"no {name}: {reason}".split()) in printed
    assert f"\n{AS_IT_IS} " in said.out


def test_a_file_that_does_not_run_is_a_sentence(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "m.onnx", "float[b, 6] x => float[2, 3] y", "y = Reshape(x, s)", s=np.array([2, 3]))
    assert "onnxruntime fails at batch size 5" in sentence(kronfx("bench", file, "--rows", "5"), 1)
    assert "cannot be read" in sentence(kronfx("bench", tmp_path / "nowhere.onnx"), 1)


@pytest.mark.parametrize("rows", ["0", "2x0", "1x2x3"])
def test_rows_are_counts_or_pairs(rows: str) -> None:
    assert "needed rows, or pairs of batch and length" in sentence(kronfx("bench", "m.onnx", "--rows", rows), 2)
