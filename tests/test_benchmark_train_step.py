"""The training benchmark on tiny cases: every contender computes the same, and what is measured is shown."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_near, dense
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "benchmarks"))

import train_step
from train_step_clock import Scales
from train_step_models import MODELS, Case, layer
from train_step_rivals import CONTENDERS, FORCED, Runner
from train_step_show import Row, tables, verdicts

CPU = torch.device("cpu")
EVERY = {**CONTENDERS, **FORCED}


def linear_chain(S: Tensor, A: Tensor, B: Tensor, bias: Tensor, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """``y`` and all gradients in float64, through ``W`` by ``torch.kron``."""
    S, A, B, bias, x = (each.detach().double().requires_grad_() for each in (S, A, B, bias, x))
    W = dense(S, A, B)
    W.retain_grad()
    y = F.linear(x, W, bias)
    y.backward(dy.double())
    return {"y": y.detach(), "x": x.grad, "S": S.grad, "A": A.grad, "B": B.grad, "weight": W.grad, "bias": bias.grad}


@pytest.mark.parametrize("name", list(EVERY))
@pytest.mark.parametrize("zero", [0.0, 0.5])
def test_every_contender_computes_the_same(name: str, zero: float) -> None:
    case = Case(layer(24, 40, 6), (4, 8), 3, zero)
    start, x = case.start(), case.task.input(CPU)
    dy = torch.randn(6, 24)
    factors = [start[0].S, start[0].A, start[0].B, start[0].bias]
    assert int((start[0].S == 0).sum()) == 30 * zero
    wanted = linear_chain(*factors, x, dy)
    magnitude = linear_chain(*(each.detach().abs() for each in (*factors, x, dy)))

    runner = Runner(EVERY[name], case, start, CPU, adam=False)
    found = {"y": runner.step(x, dy), "x": x.grad}
    found |= {path.rpartition(".")[2]: p.grad for path, p in runner.model.named_parameters()}

    of_W = {"y", "x", "weight", "bias"}
    assert found.keys() in (of_W, {"y", "x", "S", "A", "B", "bias"})
    assert (found.keys() == of_W) == (name in ("dense", "compiled", "lasso"))
    for part, value in found.items():
        assert_near(value, wanted[part], magnitude[part], torch.float32, terms=3 * 40 + 6 * 24)


def test_a_models_contenders_start_with_the_same_output() -> None:
    case = Case(MODELS["lenet5"], (4, 4), 2, 0.9)
    assert list(case.task.blocks((4, 4))) == ["7", "9"]  # the last of its linear maps has 10 rows
    start, x = case.start(), case.task.input(CPU)
    wanted = start(x).detach()
    for name in ("dense", "lasso", "paper", "lokr", "kronfx"):
        runner = Runner(CONTENDERS[name], case, start, CPU, adam=True)
        torch.testing.assert_close(runner.step(x, torch.ones_like(wanted)), wanted, rtol=1e-4, atol=1e-5)
        if name in ("kronfx", "lasso"):
            assert runner.penalty.sparsity() == pytest.approx(0.9, abs=1e-3)  # Adam moved every zero, and was undone


def test_blocks_fit_the_layer() -> None:
    assert Case(layer(300, 784, 1), (16, 16), 4, 0.0).block_name == "15x16"
    assert Case(layer(768, 768, 1), (128, 8), 4, 0.0).block_name == "128x8"
    assert not Case(MODELS["lenet5"], (64, 64), 4, 0.0).possible
    assert not Case(layer(768, 768, 1), (2, 2), 5, 0.0).possible


def test_the_peak_holds_what_a_step_needs() -> None:
    """Weight, gradient and Adam's two, input and output with theirs; at most twice that and what lies between them,
    for the allocator leaves holes."""
    rows, n = 512, 2048
    case = Case(layer(n, n, rows), (32, 32), 1, 0.0)
    scales = Scales(CPU, threads=1)
    dense, ours = (scales.peak_mb(CONTENDERS[name], case) for name in ("dense", "kronfx"))
    if dense is None:
        pytest.skip("no way to begin the peak anew on this system")
    activations, weights = 4 * 4 * rows * n / 1e6, 4 * 4 * n * n / 1e6
    assert weights + activations <= dense <= 2 * (1.5 * weights + activations)
    assert activations <= ours < weights
    assert scales.peak_mb(CONTENDERS["compiled"], case) is None


def test_a_run_prints_and_writes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_step, "SIZES", {"24x40": (24, 40)})
    names = ["dense", "lasso", "paper", "kronfx"]
    path, svg = tmp_path / "rows.json", tmp_path / "rows.svg"
    options = "--layers 24x40 --models --rows 8 --ranks 1 2 --blocks 4x8 --zeros 0 0.5 --steps 1 --threads 1"
    options += " --evaluations --no-memory"
    train_step.main([*options.split(), "--contenders", *names, "--json", str(path), "--svg", str(svg)])

    written = json.loads(path.read_text())
    assert (written["threads"], written["steps"], written["torch"]) == (1, 1, torch.__version__)
    assert written["command"].startswith("python examples/benchmarks/train_step.py --layers 24x40")
    rows = [Row(**row) for row in written["rows"]]
    assert len(rows) == 4 * (len(names) + len(FORCED))
    assert {row.contender for row in rows} == {*names, *FORCED}
    for row in rows:
        factors = row.rank * (30 + 32) + 30
        assert row.parameters == 24 + (24 * 40 if row.contender in ("dense", "lasso") else factors)
        assert (row.evaluation in FORCED) == (row.contender == "kronfx" or row.contender in FORCED)
        assert row.contender not in FORCED or row.evaluation == row.contender
        assert row.contender != "dense" or row.step == row.forward == 1

    out = capsys.readouterr().out
    assert max(map(len, out.partition("step: ms")[2].splitlines())) <= 100
    assert [line.split()[:5] for line in out.splitlines() if line.startswith("24x40 ")] == 3 * [
        ["24x40", "8", "4x8", rank, zero] for rank in "12" for zero in ("0%", "50%")
    ]
    assert "paper's order over kronfx, geometric mean where r > 1 (2): step" in out
    texts = [element.text or "" for element in ElementTree.parse(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert sum(text.startswith("24x40, 8 rows, 4x8") for text in texts) == 4
    assert {"lasso", "paper", "kronfx"} <= set(texts)


def row(contender: str, step_ms: float, rank: int = 4, evaluation: str = "", **changes: object) -> Row:
    """One of a case where dense takes 10 ms and 100 MB."""
    known = {"task": "encoder", "rows": 1024, "block": "32x32", "rank": rank, "zero": 0.0, "contender": contender}
    times = {"forward_ms": step_ms, "step_ms": step_ms, "forward": 10 / step_ms, "step": 10 / step_ms}
    return Row(**{**known, "evaluation": evaluation, **times, "peak_mb": 100.0, "parameters": 5, **changes})


def test_what_misses_is_named() -> None:
    slow = [
        row("dense", 10),
        row("paper", 22),
        row("kronfx", 11, evaluation="a_first", peak_mb=101.0),
        row("a_first", 11, evaluation="a_first"),
        row("b_first", 10, evaluation="b_first"),
    ]
    assert verdicts(slow).splitlines() == [
        "below 0.95x dense at 1024 rows: 1 of 1",
        "  encoder, 1024 rows, 32x32, r=4, 0% zero (a): step 0.91, forward 0.91",
        "below 0.90x dense at 256 rows: 0 of 0",
        "encoder, 1024 rows, 32x32, r=4, 0% zero: step 0.91x, MISSES 2.4x",
        "the chosen evaluation's step is the fastest, or within 5%: 0 of 1",
        "  encoder, 1024 rows, 32x32, r=4, 0% zero: a takes 1.10 times as long as b",
        "paper's order over kronfx, geometric mean where r > 1 (1): step 2.00x, forward 2.00x; wanted 1.3x",
        "peak memory above dense's at r <= 4: 1 of 1",
        "  encoder, 1024 rows, 32x32, r=4, 0% zero (a): 101 MB, dense 100",
    ]
    fast = [row("dense", 10, rank=1), row("paper", 9, rank=1), row("kronfx", 2, rank=1, evaluation="a_first")]
    undropped = [replace(each, task="encoder-p0") for each in fast]
    assert verdicts([*fast, *undropped]).splitlines() == [
        "below 0.95x dense at 1024 rows: 0 of 2",
        "below 0.90x dense at 256 rows: 0 of 0",
        "encoder, 1024 rows, 32x32, r=1, 0% zero: step 5.00x, reaches 4.8x",
        "encoder-p0, 1024 rows, 32x32, r=1, 0% zero: step 5.00x, reaches 4.8x",
        "peak memory above dense's at r <= 4: 0 of 2",
    ]


def test_the_tables_are_narrow() -> None:
    """With every contender, the longest names and the largest numbers."""
    wide = [row(name, 1234.5, rank=16, rows=1024, task="4096x4096", block="128x8", peak_mb=1234.0) for name in EVERY]
    text = tables([*wide], "footing")
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
