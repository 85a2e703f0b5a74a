"""A reason wherever nothing happens: why a layer runs as it does, and which weights with zero blocks were left."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models import factored, folded
from onnx import TensorProto, helper, numpy_helper
from onnx_files import axes, onnx_file, planted, sparse
from torch import nn

import kronfx as kx
from kronfx import deploy
from kronfx.deploy.records.report import RECORD_KEY
from kronfx.deploy.records.timings import Timing
from kronfx.records import Evaluation

LABEL = "64x96 in 16x16, 75% zero, float32, MatMul, 2 axes"
NO_FACTORS = "factors refused: none are known"


def product(folder: Path, zero: float = 0.75, dims: tuple[Any, ...] = ("b", 96)) -> Path:
    signature = f"float[{axes(*dims)}] x => float[{axes(*dims[:-1], 64)}] y"
    return onnx_file(folder / "m.onnx", signature, "y = MatMul(x, w)", w=planted(64, 96, (16, 16), zero).T)


def why(report: deploy.ExportReport) -> str:
    (layer,) = report.layers
    return layer.why


def timings(**seconds: tuple[float, float]) -> kx.Timings:
    pairs = [(name, rows, t) for name, times in seconds.items() for rows, t in zip((1, 128), times, strict=True)]
    return kx.Timings(tuple(Timing(LABEL, name, rows, t) for name, rows, t in pairs))  # type: ignore[arg-type]


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_as_asked(tmp_path: Path, lowering: str) -> None:
    assert why(sparse(product(tmp_path), lowering)[1]) == f"{lowering} as asked"


def test_what_was_asked_for_and_refused(tmp_path: Path) -> None:
    _, report = sparse(product(tmp_path, zero=0.0))
    assert why(report) == "dense; blocks refused: no block of its weight is zero"
    assert f"w: {why(report)}" in str(report)
    _, report = sparse(product(tmp_path), block=(10, 10))
    assert why(report) == "dense; blocks refused: blocks of 10x10 do not divide 64x96"


@pytest.mark.parametrize(
    ("dense", "blocks", "sentence"),
    [
        ((2e-4, 2e-3), (1e-4, 5e-4), "blocks won by the clock: dense 0.2 / 2 ms, blocks 0.1 / 0.5 ms"),
        ((1e-4, 5e-4), (2e-4, 2e-3), "dense won by the clock: dense 0.1 / 0.5 ms, blocks 0.2 / 2 ms"),
        ((1e-3, 2e-3), (2e-3, 1e-3), "dense kept by the clock: dense 1 / 2 ms, blocks 2 / 1 ms"),
    ],
)
def test_by_the_clock(tmp_path: Path, dense: Any, blocks: Any, sentence: str) -> None:
    _, report = sparse(product(tmp_path), "auto", tune=True, timings=timings(dense=dense, blocks=blocks))
    assert why(report) == f"{sentence} at 1 / 128 rows; {NO_FACTORS}"


def test_a_file_that_lost_as_a_whole_says_what_the_layer_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronfx.deploy.pipeline.winner", lambda *_: None)
    known = timings(dense=(2e-4, 2e-3), blocks=(1e-4, 5e-4))
    report = kx.sparsify_onnx(product(tmp_path), tmp_path / "y.onnx", timings=known)
    assert why(report).startswith("dense: no other file beat the dense one; on its own blocks won by the clock: ")


def test_a_layer_that_the_whole_file_runs_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronfx.deploy.pipeline.winner", lambda laps, _: list(laps)[-1])
    known = timings(blocks=(2e-4, 2e-3), dense=(1e-4, 5e-4))
    report = kx.sparsify_onnx(product(tmp_path), tmp_path / "y.onnx", timings=known)
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    assert why(report).startswith("blocks: the whole file ran faster so; on its own dense won by the clock: ")


def test_by_the_cost_model_and_by_size(tmp_path: Path) -> None:
    _, report = sparse(product(tmp_path), "auto")
    assert why(report).startswith("dense won by the cost model: dense ")
    _, report = sparse(product(tmp_path), "auto", optimize_for="size")
    (layer,) = report.layers
    assert layer.why.startswith(f"{layer.lowering} is smallest: dense ")
    assert f"{layer.lowering} {layer.bytes:,}" in layer.why


def test_layers_that_nothing_but_dense_can_take(tmp_path: Path) -> None:
    """Each refusal of a lowering has its sentence."""
    for dims, zero, found in (
        (("b", 96), 0.0, "no block of its weight is zero"),
        ((96,), 0.75, "its input has no axis but the features"),
    ):
        _, report = sparse(product(tmp_path, zero, dims), "auto")
        assert why(report) == f"dense; blocks refused: {found}; {NO_FACTORS}"
    W = (127 * planted(64, 96, (16, 16), 0.75)).astype(np.int8)
    W[W == 0] = -1
    W[np.kron(planted(4, 6, (1, 1), 0.5) == 0, np.ones((16, 16))) > 0] = 100
    W[0, 0], W[-1, -1] = -128, 127
    points = np.array([100] * 63 + [-100], np.int8)
    constants = {"w": W.T, "x0": np.array(0, np.uint8), "w0": points}
    signature = "uint8[b, 96] x => int32[b, 64] y"
    src = onnx_file(tmp_path / "q.onnx", signature, "y = MatMulInteger(x, w, x0, w0)", **constants)
    _, report = sparse(src, "auto")
    assert "its 8-bit weights less their zero point need more than 8 bits" in why(report)


@pytest.mark.parametrize(
    ("dims", "rank", "evaluation", "sentence"),
    [
        ((6, 4, 8, 16), 2, "a_first", "factors as asked"),
        ((6, 4, 8, 16), 2, "materialize", "factors as asked"),  # that W is formed is for training
        ((12, 16, 4, 4), 4, "materialize", "dense; factors refused: its cheapest evaluation forms the dense weight"),
    ],
)
def test_factors_that_were_asked_for(
    tmp_path: Path, dims: tuple[int, int, int, int], rank: int, evaluation: Evaluation, sentence: str
) -> None:
    model = nn.Sequential(factored(dims, rank, evaluation, bias=False))
    options: Any = {"lowering": "factors", "tune": False, "verify": False}
    assert why(kx.export_onnx(model, tmp_path / "f.onnx", torch.randn(2, 64), **options)) == sentence


def test_layers_of_one_reason_share_a_line(tmp_path: Path) -> None:
    model = nn.Sequential(*(folded(64, 64, (16, 16), seed=i) for i in range(3)))
    report = kx.export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 64), lowering="blocks", tune=False)
    assert "\n  0-2 (3): blocks as asked\n" in str(report)


def test_the_record_in_the_file_is_what_older_versions_read(tmp_path: Path) -> None:
    dst, report = sparse(product(tmp_path))
    record = json.loads({entry.key: entry.value for entry in onnx.load(dst).metadata_props}[RECORD_KEY])
    names = ["site", "m", "n", "block", "lowering", "zero_blocks", "blocks", "dense_bytes", "bytes"]
    assert (record["version"], record["fields"]) == (1, names)
    assert deploy.read(dst).layers == report.layers
    assert [layer.why for layer in deploy.read(dst).layers] == [""]


@dataclass(frozen=True)
class Left:
    """``y`` of one node, with ``x`` of these axes, and why its constant ``w`` is left."""

    node: str
    x: str
    y: str
    w: np.ndarray
    why: str


W = planted(64, 96, (16, 16))
KERNEL, NO_PRODUCT = W[..., None], "which is no product that kronfx takes"
LEFT = {
    "taps": Left("Conv(x, w)", "1, 96, 9", "1, 64, 7", KERNEL.repeat(3, 2), "convolves with kernels of 3 taps"),
    "pads": Left("Conv<pads=[1, 1]>(x, w)", "1, 96, 9", "1, 64, 11", KERNEL, "pads its input"),
    "a stack": Left("MatMul(x, w)", "2, 5, 96", "2, 5, 64", np.stack([W.T] * 2),
                    "multiplies by a constant of 3 axes, which is no matrix"),
    "an embedding": Left("Gather(w, x)", "5", "5, 64", W.T, f"reads it, {NO_PRODUCT}"),
    "a sum": Left('Einsum<equation="an,nm->a">(x, w)', "5, 96", "5", W.T, "sums over an axis of one operand alone"),
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(LEFT))
def test_weights_that_were_left_and_why(tmp_path: Path, kind: str) -> None:
    case = LEFT[kind]
    signature = f"{'int64' if kind == 'an embedding' else 'float'}[{case.x}] x => float[{case.y}] y"
    _, report = sparse(onnx_file(tmp_path / "m.onnx", signature, f"y = {case.node}", w=case.w))
    (layer,), operator = report.layers, re.split("[<(]", case.node)[0]
    assert (layer.site, layer.why) == ("w", f"only stored in blocks: {operator} {case.why}")
    assert layer.zero_blocks / layer.blocks == 0.75
    assert layer.m * layer.n == case.w.size
    assert layer.bytes <= 0.3 * layer.dense_bytes
    for word in (f"{layer.m}x{layer.n}", "75.00%", layer.why):
        assert word in str(report)
    assert report.left == ()


@pytest.mark.parametrize(
    ("side", "block", "zero", "listed"),
    [
        (64, 16, 0.75, True),
        (48, 16, 0.75, False),
        (128, 32, 0.125, True),
        (128, 32, 0.0625, False),
        (64, 16, 0.0, False),
    ],
)
def test_what_is_worth_a_line(tmp_path: Path, side: int, block: int, zero: float, listed: bool) -> None:
    signature = f"float[b, {side}] x, float[{side}, {side}] w => float[b, {side}] y"
    src = onnx_file(tmp_path / "m.onnx", signature, "y = MatMul(x, w)", w=planted(side, side, (block, block), zero))
    report = sparse(src)[1]
    assert bool(report.left) == listed
    for left in report.left:
        assert f"{left.m}x{left.n}" in str(report)
        assert json.loads(json.dumps(report.to_dict()))["left"][0]["why"] == left.why


def test_a_weight_that_a_layer_took_is_not_left(tmp_path: Path) -> None:
    W = planted(64, 64, (16, 16))
    nodes = "h = MatMul(x, w)", 'y = Einsum<equation="an,nm->am">(h, w)'
    _, report = sparse(onnx_file(tmp_path / "m.onnx", "float[b, 64] x => float[b, 64] y", *nodes, w=W))
    assert (len(report.layers), report.left) == (1, ())


def test_an_8_bit_weight_around_its_zero_point(tmp_path: Path) -> None:
    """Zero is what its zero point says."""
    W = (planted(64, 64, (16, 16)) * 300).round().clip(-100, 100).astype(np.int64)
    constants = {"w": (W + 128).astype(np.uint8), "s": np.array(0.1, np.float32), "z": np.array(128, np.uint8)}
    nodes = "d = DequantizeLinear(w, s, z)", "y = MatMul(x, d)"
    src = onnx_file(tmp_path / "m.onnx", "float[b, 64] x => float[b, 64] y", *nodes, **constants)
    model = onnx.load(src)
    assert np.count_nonzero(numpy_helper.to_array(model.graph.initializer[0])) == 64 * 64
    (layer,) = sparse(src)[1].layers
    assert (layer.lowering, layer.why) == ("blocks", "blocks as asked")
    assert (layer.block, layer.zero_blocks) == ((16, 16), 12)


def test_weights_in_bodies_and_weights_that_callers_can_replace(tmp_path: Path) -> None:
    W = planted(64, 64, (16, 16))

    def value(name: str, *dims: Any) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

    product = helper.make_node("MatMul", ["x", "inside"], ["p"])
    inner = helper.make_graph([product], "then", [], [value("p", "b", 64)], [numpy_helper.from_array(W, "inside")])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["q"])], "else", [], [value("q", "b", 64)])
    nodes = [
        helper.make_node("If", ["c"], ["h"], then_branch=inner, else_branch=other),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    inputs = [value("x", "b", 64), condition, value("w", 64, 64)]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", "b", 64)], [numpy_helper.from_array(W, "w")])
    src = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), src)
    left = {weight.name: weight.why for weight in sparse(src)[1].left}
    assert left == {
        "inside": "MatMul reads it in the body of an If, Loop or Scan, and bodies are left as they are",
        "w": "it is an input of the graph too, so that callers can replace it",
    }
