"""Each verb on a real file: what it prints, its JSON, and its answer where it cannot."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import onnx
import pytest
from onnx_files import onnx_file, planted
from shell import kronfx, sentence

import kronfx as kx
from kronfx.clock import cache

QUICK = ("--no-tune", "--batch-sizes", "2", "--rows", "16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two layers, nine tenths of the 16x16 blocks of one of them zero."""
    nodes = ("h = MatMul(x, a)", "g = Relu(h)", "y = MatMul(g, c)")
    a, c = planted(256, 128, (16, 16), 0.9), planted(64, 256, (16, 16), 0.0)
    return onnx_file(tmp_path / "m.onnx", "float[b, 128] x => float[b, 64] y", *nodes, a=a.T, c=c.T)


def test_inspect_counts_zero_blocks_and_says_whether_the_file_gains(source: Path, tmp_path: Path) -> None:
    answer = kronfx("inspect", source, "--html", tmp_path / "page.html")
    assert answer.code == 0
    assert "it would get smaller, not faster: about 0.118 of 0.197 MB would not be stored" in answer.out
    assert "<html" in (tmp_path / "page.html").read_text()

    said = json.loads(kronfx("inspect", source, "--json").out)["forecast"]
    a, c = said["weights"]
    shares = dict(zip(map(tuple, said["grids"]), a["zero_blocks"]))
    assert shares[16, 16] == round(0.9 * 16 * 8)
    assert shares[8, 8] == 4 * shares[16, 16]
    assert (shares[64, 16], c["zero_blocks"][0], c["zeros"]) == (_zero_tiles(64, 16), 0, 0.0)
    assert said["bytes"] == source.stat().st_size


def _zero_tiles(m2: int, n2: int) -> int:
    """Counted the plain way."""
    W = planted(256, 128, (16, 16), 0.9)
    return sum(not W[i : i + m2, j : j + n2].any() for i in range(0, 256, m2) for j in range(0, 128, n2))


def test_inspect_tells_a_file_that_gains_nothing_from_one_that_has_its_gain(source: Path, tmp_path: Path) -> None:
    dense = onnx_file(
        tmp_path / "d.onnx", "float[b, 64] x => float[b, 64] y", "y = MatMul(x, w)", w=planted(64, 64, zero=0)
    )
    assert "it would not gain: no weight has enough blocks of zeros" in kronfx("inspect", dense).out
    signature, W = "float[b, 768] x => float[b, 768] y", planted(768, 768, (32, 32), 0.9)
    large = onnx_file(tmp_path / "l.onnx", signature, "y = MatMul(x, w)", w=W.T)
    assert (
        "it would gain: by the cost model at 1 and 128 rows 1 of 1 linear maps would run"
        in kronfx("inspect", large).out
    )
    assert kronfx("sparsify", source, tmp_path / "s.onnx", *QUICK).code == 0
    assert "kronfx wrote this file" in kronfx("inspect", tmp_path / "s.onnx").out
    empty = onnx_file(tmp_path / "e.onnx", "float[b] x => float[b] y", "y = Relu(x)")
    assert "no weight that kronfx could run" in " ".join(kronfx("inspect", empty).out.split())


def test_sparsify_writes_the_file_that_the_library_writes(source: Path, tmp_path: Path) -> None:
    answer = kronfx("sparsify", source, tmp_path / "s.onnx", "--report", tmp_path / "p.html", *QUICK)
    assert (answer.code, answer.err) == (0, "")
    assert "verified in onnxruntime, batch sizes 2" in answer.out
    assert "<html" in (tmp_path / "p.html").read_text()
    kx.sparsify_onnx(source, tmp_path / "k.onnx", tune=False, batch_sizes=(2,), rows=(16,))
    assert onnx.load(tmp_path / "s.onnx") == onnx.load(tmp_path / "k.onnx")
    said = json.loads(kronfx("sparsify", source, tmp_path / "s.onnx", "--json", *QUICK).out)
    assert said["layers"][0]["zero_blocks"] == round(0.9 * 16 * 8)


def test_solve_answers_with_the_proof() -> None:
    assert str(kx.solve(768, 3072, rank=4)) in kronfx("solve", 768, 3072, "--rank", 4).out
    said = json.loads(kronfx("solve", 10, 784, "--json", "--runners-up", 1).out)
    assert (said["objective"], said["proven"], len(said["runners_up"])) == (252, True, 1)


MODULE = """
import torch
print("hello from the module")
def small(): return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
model = small()
def broken(): raise OSError("no weights here")
def sized(n): return model
def none(): return 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A person's own module in the current folder."""
    monkeypatch.chdir(tmp_path)
    name = f"mine_{tmp_path.name}".replace("-", "_")
    Path(f"{name}.py").write_text(MODULE)
    Path(f"{name}_leaves.py").write_text("raise SystemExit('usage: mine')")
    return name


@pytest.mark.parametrize("factory", ["small", "model"])
def test_plan_runs_a_factory_and_says_so(module: str, factory: str, tmp_path: Path) -> None:
    path = list(sys.path)
    answer = kronfx("plan", f"{module}:{factory}", "--rank", 2, "--block", "1=8x8", "--out", tmp_path / "plan.json")
    assert answer.code == 0
    assert f"kronfx: importing {module} and running its {factory}" in answer.err
    plan = kx.Plan.from_json((tmp_path / "plan.json").read_text())
    assert str(plan) in answer.out
    assert "hello" not in answer.out
    assert (plan.choices[1].shape.block, plan.choices[0].rank) == ((8, 8), 2)
    assert sys.path == path
    said = kronfx("plan", f"{module}:{factory}", "--rank", 2, "--block", "1=8x8", "--json").out
    assert kx.Plan.from_json(said) == plan


@pytest.mark.parametrize(
    ("what", "found"),
    [
        (":broken", "raises OSError: no weights here; needed a module that imports and a factory"),
        (":sized", "raises TypeError"),
        (":nowhere", "raises AttributeError"),
        (":none", "makes something of type int; needed a torch.nn.Module"),
        ("_absent:small", "raises ModuleNotFoundError"),
        ("_leaves:small", "raises SystemExit: usage: mine"),
        ("", "needed a module and a factory in it; write package.module:factory"),
    ],
)
def test_plan_answers_a_module_that_does_not_in_a_sentence(module: str, what: str, found: str) -> None:
    answer = kronfx("plan", f"{module}{what}")
    assert (answer.code, answer.out) == (1, "")
    last = answer.err.splitlines()[-1]
    assert last.startswith("kronfx: plan: ")
    assert found in last


def test_doctor_says_what_is_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = json.loads(kronfx("doctor", "--json").out)
    assert said["needed"]["torch"]
    assert said["cache"] == str(cache.path(said["threads"]))
    assert said["rates"]
    assert "threads" in kronfx("doctor").out
    monkeypatch.setenv("KRONFX_CACHE", str(tmp_path))
    assert "none kept yet" in kronfx("doctor").out
    assert list(tmp_path.iterdir()) == []


FAILURES = [
    (["inspect", "nowhere.onnx"], "inspect: nowhere.onnx: cannot be read"),
    (["inspect", "text.onnx"], "inspect: text.onnx: "),
    (["inspect", "m.onnx", "--html", "text.onnx/page.html"], "cannot write text.onnx/page.html"),
    (["sparsify", "nowhere.onnx", "o.onnx"], "export: nowhere.onnx: cannot be read"),
    (["sparsify", "text.onnx", "o.onnx"], "export: text.onnx: "),
    (["sparsify", "m.onnx", "text.onnx/o.onnx", *QUICK], "cannot write text.onnx/o.onnx"),
    (["sparsify", "m.onnx", "/proc/o.onnx", *QUICK], "cannot write /proc/o.onnx"),
    (["solve", "8", "8", "--block", "3x3"], "solve: 8x8: no m2 that divides 8 is 3"),
]


@pytest.mark.parametrize(("words", "found"), FAILURES, ids=lambda case: str(case)[:40])
@pytest.mark.usefixtures("source")
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], found: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("no model")
    assert found in sentence(kronfx(*words), 1)
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "text.onnx"}


def test_debug_shows_where() -> None:
    with pytest.raises(kx.KronfxError, match="cannot be read"):
        kronfx("inspect", "nowhere.onnx", "--debug")


def test_demo_goes_the_whole_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("kronfx.cli.demo"), "EPOCHS", 2)
    answer = kronfx("demo", "--out", tmp_path / "d.onnx", "--html", tmp_path / "d.html", "--json")
    assert answer.code == 0
    said = json.loads(answer.out)
    assert [row["name"] for row in said["rows"]] == ["dense", "factored", "folded", "ONNX"]
    assert said["rows"][-1]["bytes"] == (tmp_path / "d.onnx").stat().st_size
    assert "<html" in (tmp_path / "d.html").read_text()


def test_demo_says_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert sentence(kronfx("demo"), 1) == (
        "demo: scikit-learn is not installed; needed the digits that come with it; pip install scikit-learn"
    )


def test_a_page_that_cannot_be_written_is_told_before_the_work(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    answer = kronfx("sparsify", source, target, "--report", tmp_path / "missing" / "page.html", *QUICK)
    assert "its folder is missing" in sentence(answer, 1)
    assert not target.exists()


def test_tables_fit_the_terminal(source: Path) -> None:
    narrow = kronfx("inspect", source, environment={"COLUMNS": "60"}).out
    assert max(map(len, narrow.splitlines())) <= 60


def test_version() -> None:
    assert kronfx("--version").out.startswith("kronfx ")
