"""Reading a file back, without the torch model it came from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import factored, folded
from onnx_files import onnx_file
from torch import nn

import kronfx as kx
from kronfx import deploy
from kronfx.errors import InspectError


def test_a_file_of_ours_lists_what_the_report_listed(tmp_path: Path) -> None:
    model, path = nn.Sequential(folded(48, 64, (4, 8)), factored((4, 6, 8, 8), 2, "a_first")), tmp_path / "model.onnx"
    report = kx.export_onnx(model, path, torch.randn(2, 64), lowering="factors", tune=False)
    summary = deploy.read(path)
    assert (summary.layers, summary.bytes, summary.producer) == (report.layers, report.bytes, "kronfx")
    assert [layer.lowering for layer in summary.layers] == ["dense", "factors"]

    for value in (report, summary):
        assert json.loads(json.dumps(value.to_dict()))["layers"][1]["site"] == "1"
        for word in ("48x64", "4x8", "factors", "89.58%", "12,288", "total"):
            assert word in str(value)
    assert "batch sizes 1, 7, 32" in str(report)


def test_a_plain_file_lists_its_constant_matrices(tmp_path: Path) -> None:
    nodes = """
        a = MatMul(x, right)
        c = Gemm<transB = 1>(a, turned, bias)
        d = Gemm(c, straight)
        y = MatMul(left, d)
    """
    shapes = {"right": (8, 6), "turned": (5, 6), "bias": (1, 5), "straight": (5, 8), "left": (3, 3)}
    weights = {name: np.zeros(shape, "f") for name, shape in shapes.items()}
    path = onnx_file(tmp_path / "plain.onnx", "float[3, 8] x => float[3, 8] y", nodes, **weights)
    model = onnx.load(path)
    model.producer_name = "someone"
    onnx.save(model, path)
    summary = deploy.read(path)
    found = {layer.site: (layer.m, layer.n, layer.bytes) for layer in summary.layers}
    assert found == {"right": (6, 8, 192), "turned": (5, 6, 120), "straight": (8, 5, 160), "left": (3, 3, 36)}
    assert {(layer.block, layer.lowering, layer.blocks) for layer in summary.layers} == {(None, "dense", 0)}
    assert "written by someone" in " ".join(str(summary).split())


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    cases = {
        "text": (b"certainly no protobuf", "not in the ONNX format"),
        "empty": (b"", "no ONNX graph in it"),
    }
    for name, (content, found) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InspectError, match=found):
            deploy.read(tmp_path / name)
    with pytest.raises(InspectError, match="No such file"):
        deploy.read(tmp_path / "missing")
    with pytest.raises(InspectError, match="Is a directory"):
        deploy.read(tmp_path)


FIELDS = '"fields":["site","m","n","block","lowering","zero_blocks","blocks","dense_bytes","bytes"]'
RECORDS = [
    "{",
    "[]",
    '{"version":2}',
    '{"version":1,"fields":["site"],"layers":[["a"]]}',
    '{"version":1,"fields":7,"layers":[7]}',
    '{"version":1,"fields":[["site"]],"layers":[["a"]]}',
    '{"version":1,' + FIELDS + ',"layers":[["a","8",8,null,"dense",0,0,8,8]]}',
    '{"version":1,' + FIELDS + ',"layers":[["a",8,8,[8,null],"dense",0,0,8,8]]}',
    '{"version":1,' + FIELDS + ',"layers":[["a",8,8,null,"neither",0,0,8,8]]}',
    '{"version":1,' + FIELDS + ',"layers":[["a",8,8,null,[],0,0,8,8]]}',
    "[" * 100_000,
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_damaged_record(tmp_path: Path, record: str) -> None:
    path = tmp_path / "model.onnx"
    deploy.export(nn.Sequential(folded(48, 64, (4, 8))), path, torch.randn(2, 64), deploy.ExportOptions(verify=False))
    model = onnx.load(path)
    model.metadata_props[0].value = record
    onnx.save(model, path)
    with pytest.raises(InspectError, match="a kronfx record that does not read"):
        deploy.read(path)


def test_what_two_layers_read_is_counted_once(tmp_path: Path) -> None:
    W = np.random.default_rng(0).standard_normal((64, 64)).astype("f")
    nodes = "h = MatMul(x, w)", "y = Gemm<transB=1>(h, w)"
    path = onnx_file(tmp_path / "m.onnx", "float[b, 64] x => float[b, 64] y", *nodes, w=W)
    assert [(layer.site, layer.bytes) for layer in deploy.read(path).layers] == [("w", W.nbytes), ("w", 0)]
    assert [layer.stored for layer in kx.inspect(path).layers] == [W.size, 0]
