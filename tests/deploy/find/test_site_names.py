"""Names that a person knows: the module's path in reports, nodes and constants, folders for viewers, who wrote it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from models import folded
from onnx_files import onnx_file, planted, product, sparse
from onnxruntime.quantization import quantize_dynamic
from torch import Tensor, nn

import kronfx as kx


class Block(nn.Module):
    """Two linear maps and one that is spelled as a product with a parameter."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.expand, self.contract = folded(256, 128, (16, 16), seed=seed), folded(128, 256, (16, 16), seed=seed + 1)
        self.mix = nn.Parameter(folded(128, 128, (16, 16), seed=seed + 2).weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.contract(self.expand(x).relu()) @ self.mix


class Model(nn.Module):
    """Two blocks in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(1), Block(4)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def one_layer(folder: Path) -> Path:
    return product(folder / "m.onnx", planted(64, 64, (8, 8)), leading="3")


PATHS = [f"layers.{i}.{part}" for i in range(2) for part in ("expand", "contract", "mix")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as torch's exporter writes it, in one file; its weights are turned, and called ``val_...``."""
    path = tmp_path_factory.mktemp("names") / "model.onnx"
    x, axes = torch.randn(2, 5, 128), ({0: "batch", 1: "length"},)
    torch.onnx.export(Model().eval(), (x,), path, dynamo=True, dynamic_shapes=axes, external_data=False, verbose=False)
    return path


def told(node: onnx.NodeProto) -> str:
    """The folder that viewers show a node in: what its metadata say, else what is in front of its name."""
    said = [entry.value for entry in node.metadata_props if entry.key == "namespace"]
    return said[0] if said else node.name.strip("/").rpartition("/")[0]


def folders(path: Path) -> set[str]:
    return {folder for node in onnx.load(path).graph.node if (folder := told(node))}


def slashed(path: str) -> str:
    """``layers.0/expand``."""
    return re.sub(r"\.(?=[a-z])", "/", path)


def test_a_file_of_torchs_exporter(exported: Path) -> None:
    dst, report = sparse(exported)
    assert [layer.lowering for layer in report.layers] == ["blocks"] * 6
    assert all(layer.site.startswith(path) for layer, path in zip(report.layers, PATHS, strict=True))
    graph = onnx.load(dst).graph
    blocks = [tensor.name for tensor in graph.initializer if tensor.name.endswith("/blocks")]
    assert all(any(name.startswith(path) for name in blocks) for path in PATHS)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert all(any(node.name.startswith(slashed(path)) for node in products) for path in PATHS)
    names = [node.name for node in graph.node if node.name]
    assert len(names) == len(set(names))
    source = [entry.value for node in onnx.load(exported).graph.node for entry in node.metadata_props]
    before = {value.rpartition("/")[0] for value in source}
    made = {told(node) for node in products}
    assert made <= before  # the folders of the layers they replace
    assert any("layers.1.contract" in folder for folder in made)


def test_a_quantized_file_is_named_after_its_biases(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = ""
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "bare.onnx")
    quantize_dynamic(tmp_path / "bare.onnx", tmp_path / "int8.onnx")
    _, report = sparse(tmp_path / "int8.onnx")
    named = [layer.site for layer in report.layers]
    assert [name for name in named if "mix" not in name] == [path for path in PATHS if "mix" not in path]


def test_a_bias_that_many_share_names_nothing(tmp_path: Path) -> None:
    nodes = "a = MatMul(x, u)", 'b = Add(a, "fc.bias")', "c = MatMul(b, v)", 'y = Add(c, "fc.bias")'
    weights = {"u": planted(64, 64, (8, 8)), "v": planted(64, 64, (8, 8), seed=1), "fc.bias": planted(1, 64, (1, 1))[0]}
    src = onnx_file(tmp_path / "m.onnx", "float[r, 64] x => float[r, 64] y", *nodes, **weights)
    assert [layer.site for layer in sparse(src)[1].layers] == ["u", "v"]


def test_a_quantized_file_is_named_after_what_is_left_of_its_scopes(exported: Path, tmp_path: Path) -> None:
    quantize_dynamic(exported, tmp_path / "int8.onnx")
    named = [layer.site for layer in sparse(tmp_path / "int8.onnx")[1].layers]
    assert [name for name in named if "val" not in name and "mix" not in name] == [
        path for path in PATHS if "mix" not in path
    ]


def test_the_path_in_a_nodes_name(tmp_path: Path) -> None:
    nodes = 'h = MatMul(x, "onnx::MatMul_1")', 't = MatMul(h, "onnx::MatMul_2")', 'y = MatMul(t, "fc.weight")'
    W = planted(64, 64, (8, 8))
    weights = dict.fromkeys(["onnx::MatMul_1", "onnx::MatMul_2", "fc.weight"], W)
    weights = {name: (i + 1) * W for i, name in enumerate(weights)}
    src = onnx_file(tmp_path / "m.onnx", "float[r, 64] x => float[r, 64] y", *nodes, **weights)
    model = onnx.load(src)
    for node, name in zip(model.graph.node, ("/encoder/layer.0/query/MatMul", "/encoder/layer.0/query/MatMul_1", "n7")):
        node.name = name
    onnx.save(model, src)
    dst, report = sparse(src)
    assert [layer.site for layer in report.layers] == ["encoder.layer.0.query", "encoder.layer.0.query_2", "fc.weight"]
    assert folders(dst) == {"encoder/layer.0/query", "fc/weight"}


def test_maps_that_are_stacked_share_a_folder_and_have_their_own(tmp_path: Path) -> None:
    nodes = [f"{one.upper()} = MatMul(x, {one})" for one in "qkv"]
    weights = {one: planted(64, 64, (8, 8), seed=i) for i, one in enumerate("qkv")}
    outputs = ", ".join(f"float[b, r, 64] {one.upper()}" for one in "qkv")
    src = onnx_file(tmp_path / "m.onnx", f"float[b, r, 64] x => {outputs}", *nodes, **weights)
    model = onnx.load(src)
    for node, one in zip(model.graph.node, "qkv"):
        node.name = f"/attention/self/{one}/MatMul"
    onnx.save(model, src)
    dst, report = sparse(src)
    assert [layer.site for layer in report.layers] == [f"attention.self.{one}" for one in "qkv"]
    assert folders(dst) == {f"attention/self/{name}" for name in ("q+k+v", "q", "k", "v")}


@pytest.mark.parametrize("name", ["", "MatMul_3", "/MatMul", "/", "//", "/" + "a/" * 500 + "MatMul"])
def test_names_that_tell_nothing(tmp_path: Path, name: str) -> None:
    src = one_layer(tmp_path)
    model = onnx.load(src)
    model.graph.node[0].name = name
    onnx.save(model, src)
    assert [layer.site for layer in sparse(src)[1].layers] == ["w"]


@pytest.mark.parametrize("scopes", ["", "[", "['', 'linear']", "(" * 9999, "['a\\'b', \"c\"]"])
def test_scopes_that_do_not_read(tmp_path: Path, scopes: str) -> None:
    src = one_layer(tmp_path)
    model = onnx.load(src)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    onnx.save(model, src)
    assert sparse(src)[1].layers[0].site


def test_names_cost_a_small_file_little(tmp_path: Path) -> None:
    model = nn.Sequential(folded(120, 400, (8, 16), seed=1), nn.ReLU(), folded(84, 120, (4, 8), seed=2))
    report = kx.export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 400), lowering="blocks")
    with_names = (tmp_path / "m.onnx").stat().st_size
    bare = onnx.load(tmp_path / "m.onnx")
    for node in bare.graph.node:
        node.name = ""
        del node.metadata_props[:]
    assert [layer.site for layer in report.layers] == ["0", "2"]
    assert folders(tmp_path / "m.onnx") == {"0", "1", "2"}
    assert with_names < 1.02 * len(bare.SerializeToString()) + 14 * len(bare.graph.node)  # names there were before


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_every_node_of_an_export_is_named_after_its_module(tmp_path: Path, lowering: str) -> None:
    names = []
    for name in ("first.onnx", "second.onnx"):
        kx.export_onnx(Model(), tmp_path / name, torch.randn(2, 5, 128), lowering=lowering, tune=False)
        names.append([node.name for node in onnx.load(tmp_path / name).graph.node])
    assert names[0] == names[1]
    assert len(names[0]) == len(set(names[0]))
    modules = {slashed(name) for name, _ in Model().named_modules()} | {slashed(path) for path in PATHS}
    for node in onnx.load(tmp_path / "first.onnx").graph.node:
        assert told(node).removesuffix("/W") in modules, node.name
        assert node.name.rpartition("/")[2].partition("_")[0] == node.op_type
        assert not node.metadata_props


def test_what_is_not_touched_keeps_its_name(tmp_path: Path) -> None:
    nodes = "a = MatMul(x, u)", "s = Softmax(a)", "t = MatMul(s, v)", "y = Tanh(t)"
    weights = {"u": planted(64, 64, (8, 8)), "v": np.random.default_rng(0).normal(size=(64, 64)).astype("f")}
    src = onnx_file(tmp_path / "m.onnx", "float[r, 64] x => float[r, 64] y", *nodes, **weights)
    model = onnx.load(src)
    names = ["/net/fc/MatMul", "whatever: 1", "/net/head/MatMul", "node_Tanh_7"]
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    onnx.save(model, src)
    after = {node.name: node.op_type for node in onnx.load(sparse(src)[0]).graph.node}
    assert {"net/fc/MatMul": "MatMul", "whatever: 1": "Softmax"}.items() <= after.items()
    assert {"/net/head/MatMul": "MatMul", "node_Tanh_7": "Tanh"}.items() <= after.items()
    assert "/net/fc/MatMul" not in after


def test_equal_weights_are_told_apart(tmp_path: Path) -> None:
    model = nn.Sequential(*(folded(32, 32, (8, 8)) for _ in range(3)))
    for layer in model:
        layer.weight.data.zero_()
    report = kx.export_onnx(model, tmp_path / "m.onnx", torch.randn(2, 32), tune=False)
    assert sorted(layer.site for layer in report.layers) == ["0", "1", "2"]


WRITERS = [("pytorch", "2.9", "pytorch 2.9"), ("tf2onnx", "", "tf2onnx"), ("", "", None)]


@pytest.mark.parametrize(("name", "version", "kept"), WRITERS)
def test_who_wrote_the_source_is_kept(tmp_path: Path, name: str, version: str, kept: str | None) -> None:
    src = one_layer(tmp_path)
    model = onnx.load(src)
    model.producer_name, model.producer_version = name, version
    onnx.save(model, src)
    first, _ = sparse(src)
    again = tmp_path / "again.onnx"
    kx.sparsify_onnx(first, again, tune=False)
    for path in (first, again):
        written = onnx.load(path)
        assert written.producer_name == "kronfx"
        assert {entry.key: entry.value for entry in written.metadata_props}.get("kronfx.source") == kept
