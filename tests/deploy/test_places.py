"""The node of a file that is a layer, against what the node does: it multiplies by the layer's own weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import attention, factored, folded
from onnx_files import onnx_file, planted, sparse
from onnxruntime.quantization import quantize_dynamic
from torch import nn

import kronfx as kx
from kronfx import deploy
from kronfx.errors import InspectError

PRODUCTS = {"MatMul", "Gemm", "MatMulInteger", "Conv"}


def found(path: Path) -> dict[str, onnx.NodeProto]:
    """Of every layer of a file."""
    sites = [layer.site for layer in deploy.read(path).layers]
    nodes = {node.name: node for node in onnx.load(path).graph.node}
    places = deploy.places(path, sites)
    assert places.graph == onnx.load(path).graph.name
    assert set(places.nodes) == set(sites)
    return {site: nodes[name] for site, name in places.nodes.items()}


@pytest.mark.parametrize("lowering", ["auto", "dense", "blocks", "factors"])
def test_the_layers_of_an_export(tmp_path: Path, lowering: str) -> None:
    layers = [folded(48, 64, (4, 8), seed=1), nn.ReLU(), factored((4, 6, 8, 8), 2, "a_first"), nn.Linear(32, 16)]
    kx.export_onnx(nn.Sequential(*layers), tmp_path / "m.onnx", torch.randn(2, 64), lowering=lowering, tune=False)
    nodes = found(tmp_path / "m.onnx")
    assert {"0", "2"} <= set(nodes)
    assert all(node.name.partition("/")[0] == site.partition(".")[0] for site, node in nodes.items())
    assert {node.op_type for node in nodes.values()} <= PRODUCTS


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_packed_attention_is_found_by_its_constant(tmp_path: Path, lowering: str) -> None:
    model = kx.factorize(attention().eval(), rank=2, block=(4, 4))
    for factors in kx.factors(model).values():
        factors.S.data[:, ::2] = 0
    kx.export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 5, 16), lowering=lowering, tune=False)
    nodes = found(tmp_path / "m.onnx")
    assert len({node.name for node in nodes.values()}) == len(nodes) == 8
    assert {node.op_type for node in nodes.values()} <= PRODUCTS


def test_stacked_layers_have_a_node_of_their_own_each(tmp_path: Path) -> None:
    nodes = [f"{one.upper()} = MatMul(x, {one})" for one in "qkv"]
    weights = {one: planted(64, 64, (8, 8), seed=i) for i, one in enumerate("qkv")}
    outputs = ", ".join(f"float[b, r, 64] {one.upper()}" for one in "qkv")
    dst, _ = sparse(onnx_file(tmp_path / "m.onnx", f"float[b, r, 64] x => {outputs}", *nodes, **weights))
    names = {site: node.name for site, node in found(dst).items()}
    assert {site: name.partition("/")[0] for site, name in names.items()} == {"q": "q", "k": "k", "v": "v"}


def test_a_plain_file_without_names(tmp_path: Path) -> None:
    weights = {"u": planted(64, 64, (8, 8)), "v": planted(64, 64, (8, 8), seed=1)}
    src = onnx_file(
        tmp_path / "m.onnx", "float[r, 64] x => float[r, 64] y", "a = MatMul(x, u)", "y = MatMul(a, v)", **weights
    )
    model = onnx.load(src)
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, src)
    nodes = deploy.places(src, ["u", "v", "w"]).nodes
    assert set(nodes) == {"u", "v"}
    assert len(set(nodes.values())) == 2


def test_a_file_in_8_bits(tmp_path: Path) -> None:
    weights = {"fc.weight": planted(64, 64, (8, 8)), "fc.bias": np.ones(64, np.float32)}
    text = 'a = MatMul(x, "fc.weight")', 'y = Add(a, "fc.bias")'
    src = onnx_file(tmp_path / "m.onnx", "float[r, 64] x => float[r, 64] y", *text, **weights)
    quantize_dynamic(src, tmp_path / "int8.onnx")
    (node,) = found(sparse(tmp_path / "int8.onnx")[0]).values()
    assert node.op_type == "MatMulInteger"


def test_what_is_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no")
    with pytest.raises(InspectError, match=r"^inspect: .*m\.onnx"):
        deploy.places(tmp_path / "m.onnx", ["a"])
