"""Factored and folded convolutions in the report of an export, on its page, and in the file itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import factored
from onnx import numpy_helper
from onnx_files import PROMISED, assert_same, export, run
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kronfx as kx
from kronfx.deploy.records.report import ExportedLayer
from kronfx.layers import Convolution, KroneckerConv
from kronfx.page import Sheet
from kronfx.page.drawing import drawings
from kronfx.records import Evaluation, KroneckerShape


def convolution(grid: tuple[int, int], channels: tuple[int, int], kernel: tuple[int, ...], rank: int,
                evaluation: Evaluation, bias: bool = True) -> KroneckerConv:  # fmt: skip
    """Of ``grid`` blocks, each from some channels to some, of odd kernels that keep every axis as long as it is."""
    shape = KroneckerShape(*grid, channels[0], channels[1] * int(np.prod(kernel)))
    pads = tuple(taps // 2 for taps in kernel)
    return KroneckerConv(shape, rank, evaluation, Convolution.of(kernel, padding=pads), bias)


def stored(path: Path) -> int:
    """Bytes of all floating constants of a file, wherever they stand."""
    arrays = (numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer)
    return sum(array.nbytes for array in arrays if array.dtype.kind == "f")


def work(layer: nn.Module, x: Tensor, rows: int) -> int:
    """Multiply-adds a row, counted by torch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    return counter.get_total_flops() // 2 // rows


def sheets(report: kx.ExportReport) -> list[Sheet]:
    """What the page of the report says of its only layer, and that of the file."""
    (told,), (read,) = kx.inspect(report).page.sheets, kx.inspect(report.path).page.sheets
    return [told, read]


CASES = [
    ((2, 3), (2, 1), (3,), 2, "a_first", True),
    ((3, 2), (1, 3), (3, 1), 1, "b_first", False),
    ((1, 2), (3, 2), (3, 3), 2, "b_first", True),
    ((2, 3), (1, 2), (1, 3, 3), 1, "a_first", True),
]  # fmt: skip


@pytest.mark.parametrize(("grid", "channels", "kernel", "rank", "evaluation", "bias"), CASES)
def test_a_factored_convolution_has_its_row_its_work_and_its_drawing(
    tmp_path: Path, grid: tuple[int, int], channels: tuple[int, int], kernel: tuple[int, ...], rank: int,
    evaluation: Evaluation, bias: bool,
) -> None:  # fmt: skip
    layer = convolution(grid, channels, kernel, rank, evaluation, bias)
    with torch.no_grad():
        layer.S[0, 0] = 0
    x = torch.randn(2, layer.in_channels, *(4 for _ in kernel))
    path = tmp_path / "m.onnx"
    report = export(nn.Sequential(layer, nn.ReLU()), path, x, "auto", batch_sizes=(2,))
    m, n = layer.grid.m, layer.grid.n
    block = layer.grid.block
    size = stored(path) - 4 * m * bias
    assert report.layers == (ExportedLayer("0", m, n, block, "factors", 1, layer.grid.blocks, 4 * m * n, size),)
    assert " ".join(str(report).split()).count(f"0 {m}x{n} {block[0]}x{block[1]} factors") == 1
    for sheet in sheets(report):
        assert (sheet.site, sheet.runs_as, sheet.bytes, sheet.zero_blocks) == ("0", "factors", size, 1)
        assert sheet.work == work(layer, x, 2 * 4 ** len(kernel))
        assert len(drawings(sheet)) == 2
    assert '"0"' in report.to_html(path.with_suffix(".html")).read_text()


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
def test_a_linear_layer_that_runs_as_factors_has_its_work_and_its_drawing(
    tmp_path: Path, evaluation: Evaluation
) -> None:
    layer = factored((6, 4, 8, 16), 3, evaluation)
    report = export(nn.Sequential(layer), tmp_path / "m.onnx", torch.randn(2, 64), "factors")
    for sheet in sheets(report):
        assert (
            sheet.work
            == work(layer, torch.randn(10, 64), 10)
            == sheet.shape.products(3, 10, evaluation)[0] // 10 + (sheet.shape.products(3, 10, evaluation)[1] // 10)
        )
        _, drawn = drawings(sheet)
        assert ("MatMul 2", "y", "48 × N") in drawn.wires
        assert drawn.caption.endswith(f"{sheet.work:,} multiply-adds a row")
    text = report.to_html(tmp_path / "page.html").read_text()
    assert f"{sheet.work:,}" in text


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
def test_a_pointwise_convolution_is_a_linear_map_with_factors(tmp_path: Path, evaluation: Evaluation) -> None:
    layer, path = convolution((6, 4), (4, 8), (1, 1), 2, evaluation), tmp_path / "m.onnx"
    x = torch.randn(2, 32, 4, 4)
    for lowering in ("factors", "auto"):
        report = export(nn.Sequential(layer, nn.ReLU()), path, x, lowering)
        (entry,) = report.layers
        assert (entry.site, entry.m, entry.n, entry.block) == ("0", 24, 32, (4, 8))
        assert entry.lowering == "factors" or lowering == "auto"
        assert entry.bytes == 4 * 2 * (6 * 4 + 4 * 8) == stored(path) - 4 * 24
        assert_same(run(path, x)[0], layer(x).relu(), PROMISED)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_types(tmp_path: Path, dtype: torch.dtype) -> None:
    layer = convolution((2, 2), (2, 2), (3, 3), 1, "a_first").to(dtype)
    verify = dtype == torch.float16  # onnxruntime has no other such convolution on CPUs
    report = export(layer, tmp_path / "m.onnx", torch.randn(2, 4, 4, 4, dtype=dtype), "auto", verify=verify)
    (entry,) = report.layers
    assert entry.bytes == dtype.itemsize * (2 * 2 + 2 * 18)
    assert entry.dense_bytes == dtype.itemsize * 4 * 36


def test_s_and_a_are_one_constant_however_large_and_however_often_they_are_read(tmp_path: Path) -> None:
    """torch's exporter folds no product of over 8,192 entries."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = convolution((96, 96), (2, 2), (3, 3), 2, "b_first", bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x).relu())

    model, path, x = Twice(), tmp_path / "m.onnx", torch.randn(1, 192, 4, 4)
    report = export(model, path, x, "auto", batch_sizes=(1,))
    (entry,) = report.layers
    assert entry.bytes == 4 * 2 * (96 * 96 + 2 * 18) == stored(path)
    assert_same(run(path, x)[0], model(x), PROMISED)


def test_folded_convolutions_have_rows_in_the_networks_order_and_keep_their_factors(tmp_path: Path) -> None:
    model = nn.Sequential(
        convolution((8, 4), (4, 4), (3, 3), 1, "materialize"), nn.ReLU(),
        convolution((8, 8), (4, 4), (1, 1), 1, "materialize"), nn.ReLU(),
        convolution((2, 8), (4, 4), (3, 3), 1, "a_first"), nn.Flatten(2), nn.Linear(16, 32),
    ).eval()  # fmt: skip
    path, x = tmp_path / "m.onnx", torch.randn(2, 16, 4, 4)
    report = export(model, path, x, "dense")
    assert [(layer.site, layer.lowering) for layer in report.layers[:3]] == [
        ("0", "dense"),
        ("2", "dense"),
        ("4", "dense"),
    ]
    report = export(model, path, x, "auto")
    assert [layer.site for layer in report.layers[:3]] == ["0", "2", "4"]
    assert report.layers[3].m == 32
    assert [layer.bytes for layer in report.layers[:3]] == [
        4 * (8 * 4 + 4 * 36), 4 * (8 * 8 + 4 * 4), 4 * (2 * 8 + 4 * 36)
    ]  # fmt: skip
    assert "3x3 taps" in report.layers[0].why
    assert stored(path) == sum(layer.bytes for layer in report.layers) + 4 * (32 + 32 + 8 + 32)
    assert_same(run(path, x)[0], model(x), PROMISED)


def test_a_convolution_that_a_batch_norm_was_fused_into_keeps_its_name_and_grid(tmp_path: Path) -> None:
    body = nn.Sequential(convolution((8, 4), (4, 4), (3, 3), 1, "materialize"), nn.BatchNorm2d(32))
    body[1].running_var.uniform_(0.5, 2)
    model, path, x = nn.Sequential(body, nn.ReLU()).eval(), tmp_path / "m.onnx", torch.randn(2, 16, 4, 4)
    report = export(model, path, x, "auto")
    assert [(layer.site, layer.block, layer.bytes) for layer in report.layers] == [("0.0", (4, 36), 4 * 32 * 144)]
    assert_same(run(path, x)[0], model(x), PROMISED)
