"""Reading a file back, without the torch model it came from; the records and the progress line."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_files import factored, folded
from torch import nn

import kronfx as kx
from kronfx import deploy
from kronfx.deploy.prove.inputs import Inputs
from kronfx.deploy.quiet import progress
from kronfx.deploy.records.report import from_record, to_record
from kronfx.errors import InspectError

counts = st.integers(0, 2**40)
layers = st.builds(
    deploy.ExportedLayer,
    st.text(),
    counts,
    counts,
    st.none() | st.tuples(counts, counts),
    st.sampled_from(["dense", "blocks", "factors"]),
    counts,
    counts,
    counts,
    counts,
)


@given(st.lists(layers))
def test_the_record_reads_back_equal(entries: list[deploy.ExportedLayer]) -> None:
    assert from_record(to_record(tuple(entries))) == tuple(entries)


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
    def constant(name: str, *dims: int) -> TensorProto:
        return numpy_helper.from_array(np.zeros(dims, np.float32), name)

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 8]) for name in "xy")
    nodes = [
        helper.make_node("MatMul", ["x", "right"], ["a"]),
        helper.make_node("Gemm", ["a", "turned", "bias"], ["c"], transB=1),
        helper.make_node("Gemm", ["c", "straight"], ["d"]),
        helper.make_node("MatMul", ["left", "d"], ["y"]),
    ]
    weights = [constant("right", 8, 6), constant("turned", 5, 6), constant("bias", 1, 5), constant("straight", 5, 8)]
    graph = helper.make_graph(nodes, "g", [x], [y], [*weights, constant("left", 3, 3)])
    path = tmp_path / "plain.onnx"
    onnx.save(helper.make_model(graph, producer_name="someone"), path)
    summary = deploy.read(path)
    found = {layer.site: (layer.m, layer.n, layer.bytes) for layer in summary.layers}
    assert found == {"right": (6, 8, 192), "turned": (5, 6, 120), "straight": (8, 5, 160), "left": (3, 3, 36)}
    assert {(layer.block, layer.lowering, layer.blocks) for layer in summary.layers} == {(None, "dense", 0)}
    assert "written by someone" in str(summary)


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
    deploy.export(nn.Sequential(folded(48, 64, (4, 8))), path, torch.randn(2, 64), verify=False)
    model = onnx.load(path)
    model.metadata_props[0].value = record
    onnx.save(model, path)
    with pytest.raises(InspectError, match="a kronfx record that does not read"):
        deploy.read(path)


def test_inputs_at_other_batch_sizes() -> None:
    x, ids, table = torch.tensor([[1.0, 0.0, -torch.inf], [-2, 4, 1]]), torch.tensor([3, 5]), torch.randn(3, 3)
    resized = Inputs((x, ids), {"table": table}).at_batch(5)
    rows, new_ids = resized.args
    assert new_ids.tolist() == [3, 5, 3, 5, 3]
    assert resized.kwargs["table"] is table
    wanted = x[[0, 1, 0, 1, 0]]
    assert torch.equal(rows.sign(), wanted.sign())
    assert (rows.abs() <= wanted.abs()).all()
    assert (rows.abs() >= 0.799 * wanted.abs()).all()
    assert not torch.equal(rows[0], rows[2])
    assert Inputs((torch.zeros(2, 3),), {}).at_batch(4).args[0].all()


def drained(descriptor: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    shown = b""
    try:
        while chunk := os.read(descriptor, 4096):
            shown += chunk
    except OSError:  # Linux's way to say that there is no more
        pass
    os.close(descriptor)
    return shown.decode()


def test_the_status_line_is_for_terminals_only(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress() as step:
        step("writing")
    assert tuple(capfd.readouterr()) == ("", "")

    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress() as step:
            step("writing")
    assert "export: writing" in drained(ours)
