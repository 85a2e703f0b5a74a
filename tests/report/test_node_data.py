"""Node data for Model Explorer: read by its own classes, and held against the graph that its ONNX adapter makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from models import folded
from onnx_files import onnx_file, planted
from shell import kronfx
from torch import nn

import kronfx as kx

GRAPH = "main_graph"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> kx.ExportReport:
    """Of a file whose layers were timed."""
    model = nn.Sequential(folded(256, 128, (16, 16), 0.9), nn.ReLU(), folded(128, 256, (16, 16), 0.5, seed=1))
    path = tmp_path_factory.mktemp("overlay") / "m.onnx"
    return kx.export_onnx(model, path, torch.randn(2, 128), rows=(64,))


def read(files: tuple[Path, ...]) -> dict[str, Any]:
    """The graph's part of each file, as Model Explorer's own classes."""
    dacite = pytest.importorskip("dacite", reason="comes with Model Explorer")
    builder = pytest.importorskip("model_explorer", reason="Model Explorer is not installed").node_data_builder
    strict = dacite.Config(strict=True)
    parts = {}
    for file in files:
        (graph, part), *more = json.loads(file.read_text()).items()
        assert (graph, more) == (GRAPH, [])
        parts[file.stem] = dacite.from_dict(builder.GraphNodeData, part, strict)
        assert json.loads(parts[file.stem].to_json_string()).items() >= part.items()
    return parts


def values(data: Any) -> dict[str, float]:
    return {node: result.value for node, result in data.results.items()}


def test_values_land_on_the_nodes_that_are_the_layers(report: kx.ExportReport, tmp_path: Path) -> None:
    adapter = pytest.importorskip("model_explorer_onnx.main", reason="Model Explorer's ONNX adapter is not installed")
    files = kx.inspect(report).to_model_explorer(tmp_path / "new" / "overlays")
    (graph,) = adapter.ONNXAdapter().convert(report.path, {})["graphs"]
    shown = {node.id: node for node in graph.nodes}
    parts = read(files)
    assert graph.id == GRAPH
    assert set(parts) == {"zero_blocks", "bytes", "milliseconds", "times_faster"}
    for layer in report.layers:
        inside = f"{GRAPH}/{layer.site}"
        (node,) = {key for part in parts.values() for key in part.results if shown[key].namespace == inside}
        assert shown[node].label in ("MatMul", "Gemm")
        assert values(parts["zero_blocks"])[node] == pytest.approx(100 * layer.zero_blocks / layer.blocks)
        assert values(parts["bytes"])[node] == layer.bytes
        taken = {t.lowering: t.seconds for t in report.timings.entries if t.layer.startswith(f"{layer.m}x{layer.n}")}
        assert values(parts["milliseconds"])[node] == pytest.approx(1e3 * taken[layer.lowering])
        assert values(parts["times_faster"])[node] == pytest.approx(taken["dense"] / taken[layer.lowering])


def test_the_error_is_what_the_model_had_lost(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kx.factorize(
        nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16)), rank=2, block=(4, 4), init="nearest"
    )
    export = kx.export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 32), tune=False)
    assert tmp_path / "error.json" not in kx.inspect(export).to_model_explorer(tmp_path)
    kx.compare(model, export).to_model_explorer(tmp_path)
    (part,) = json.loads((tmp_path / "error.json").read_text()).values()
    lost = sorted(result["value"] for result in part["results"].values())
    assert lost == pytest.approx(sorted(1 - layer.energy for layer in (model[0], model[2])))


def test_a_gradient_is_readable(report: kx.ExportReport, tmp_path: Path) -> None:
    """Black letters on its darkest colour have a contrast of 7, WCAG's best grade."""
    for part in read(kx.inspect(report).to_model_explorer(tmp_path)).values():
        assert [stop.stop for stop in part.gradient] == [0, 1]
        red, green, blue = (int(part.gradient[1].bgColor[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        assert (luminance + 0.05) / 0.05 >= 7


def test_a_file_of_anybodys_has_what_is_known_of_it(tmp_path: Path) -> None:
    nodes = "a = MatMul(x, u)", "y = MatMul(a, v)"
    weights = {name: planted(64, 64, (8, 8), seed=seed) for seed, name in enumerate("uv")}
    src = onnx_file(tmp_path / "m.onnx", "float[r, 64] x => float[r, 64] y", *nodes, **weights)
    files = kx.inspect(src).to_model_explorer(tmp_path)
    assert kronfx("inspect", src, "--node-data", tmp_path / "again").code == 0
    assert {file.name: file.read_text() for file in files} == {
        file.name: file.read_text() for file in (tmp_path / "again").iterdir()
    }
    data = json.loads((tmp_path / "bytes.json").read_text())[onnx.load(src).graph.name]
    assert tmp_path / "bytes.json" in files
    assert [result["value"] for result in data["results"].values()] == [64 * 64 * 4] * 2


def test_a_layer_that_is_not_found_is_said(report: kx.ExportReport, tmp_path: Path) -> None:
    model = onnx.load(report.path)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"2"', '"gone"')
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.warns(UserWarning, match=r"no node of m.onnx is known to be that of gone"):
        kx.inspect(tmp_path / "m.onnx").to_model_explorer(tmp_path)


@pytest.mark.parametrize("subject", [nn.Linear(16, 16), kx.plan(nn.Linear(16, 16), block=(4, 4))])
def test_what_has_no_file_is_a_sentence(subject: Any, tmp_path: Path) -> None:
    with pytest.raises(kx.KronfxError, match=r"^inspect: .*; needed a report of an ONNX file or an export; "):
        kx.inspect(subject).to_model_explorer(tmp_path)


def test_a_folder_that_cannot_be_is_a_sentence(report: kx.ExportReport, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(kx.KronfxError, match=r"^inspect: cannot write .*taken"):
        kx.inspect(report).to_model_explorer(tmp_path / "taken")
