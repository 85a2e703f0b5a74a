"""Weights that lie in other files: any layout is read, and what is written stands alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_files import answers, assert_same, onnx_file, planted, product
from torch import nn

import kronfx as kx
from kronfx.deploy.opening import opened
from kronfx.deploy.opening.original import Original

W, V = planted(128, 128, (16, 16)), planted(128, 128, (16, 16), seed=1)
X = np.random.default_rng(0).standard_normal((3, 128)).astype("f")
Layout = Callable[[Path], None]


def two_products(path: Path, **more: Any) -> Path:
    nodes = "h = MatMul(x, w)", "y = MatMul(h, v)"
    return onnx_file(path, "float[b, 128] x => float[b, 128] y", *nodes, w=W.T, v=V.T, **more)


def moved_out(path: Path, places: dict[str, tuple[str, int]]) -> None:
    """Every initializer's bytes at a place ``(file, offset)`` of its own."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        name, offset = places[tensor.name]
        file = path.parent / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        with file.open("rb+") as written:
            written.seek(offset)
            written.write(tensor.raw_data)
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", offset), ("length", length)):
            if value or key == "location":
                tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


LAYOUTS: dict[str, dict[str, tuple[str, int]]] = {
    "one file": {"w": ("m.data", 0), "v": ("m.data", W.nbytes)},
    "one file each": {"w": ("w", 0), "v": ("v", 0)},
    "folders below": {"w": ("parts/w.bin", 0), "v": ("./parts/v.bin", 0)},
    "odd offsets": {"w": ("m.data", 3), "v": ("m.data", W.nbytes + 4096 + 1)},
    "names with odd letters": {"w": ("a b\\c.däta", 0), "v": ("-", 0)},
    "the same bytes": {"w": ("m.data", 0), "v": ("m.data", 0)},
}


def assert_stands_alone(path: Path, report: kx.ExportReport, wanted: np.ndarray) -> None:
    """One file, of the reported size, that computes this in a folder of its own."""
    assert report.bytes == path.stat().st_size
    alone = path.parent / "alone"
    alone.mkdir()
    path.rename(alone / "m.onnx")
    assert_same(answers(alone / "m.onnx", x=X)[0], wanted)


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("verify", [True, False])
def test_a_layout(tmp_path: Path, layout: str, verify: bool) -> None:
    src = two_products(tmp_path / "m.onnx")
    moved_out(src, LAYOUTS[layout])
    wanted = answers(src, x=X)[0]
    (tmp_path / "out").mkdir()
    report = kx.sparsify_onnx(src, tmp_path / "out" / "m.onnx", tune=False, verify=verify)
    on_disk = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file() and "out" not in file.parts)
    assert report.dense_bytes == on_disk
    assert report.bytes < W.nbytes
    assert_stands_alone(tmp_path / "out" / "m.onnx", report, wanted)


def test_the_default_of_torchs_exporter(tmp_path: Path) -> None:
    """As the README says: no option, so the weights lie in ``m.onnx.data``."""
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.from_numpy(W))
        model[2].weight.copy_(torch.from_numpy(V))
        wanted = model(torch.from_numpy(X))
    axes, names = ({0: "b"},), ["x"]
    torch.onnx.export(model, (torch.randn(2, 128),), tmp_path / "m.onnx", dynamic_shapes=axes, input_names=names)
    assert (tmp_path / "m.onnx.data").exists()
    (tmp_path / "out").mkdir()
    report = kx.sparsify_onnx(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", tune=False)
    assert report.max_error is not None
    assert report.bytes < W.nbytes
    assert_stands_alone(tmp_path / "out" / "m.onnx", report, wanted.numpy())


def constant_nodes(path: Path) -> None:
    """Weights as attributes of Constant nodes, of the graph and of a body, their data outside."""
    w, v = (numpy_helper.from_array(np.ascontiguousarray(M.T), name) for name, M in (("w", W), ("v", V)))
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    inner = [helper.make_node("Constant", [], ["c"], value=v), helper.make_node("MatMul", ["h", "c"], ["z"])]
    then, other = (helper.make_graph(inner, name, [], out) for name in ("then", "other"))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=w),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other),
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 128]) for name in "xy"]
    flag = numpy_helper.from_array(np.array(True), "flag")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [flag])
    save_outside(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def a_function(path: Path) -> None:
    w = numpy_helper.from_array(np.ascontiguousarray(W.T), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=w), helper.make_node("MatMul", ["x", "w"], ["y"])]
    function = helper.make_function("own", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 128]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("F", ["x"], ["y"], domain="own")], "g", infos[:1], infos[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    save_outside(helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[function]), path)


def save_outside(model: onnx.ModelProto, path: Path) -> None:
    """Every tensor of a Constant node, wherever it is, into ``m.data``."""
    data = bytearray()

    def emptied(nodes: Any) -> None:
        for node in nodes:
            for attribute in node.attribute:
                emptied(attribute.g.node)
                if node.op_type == "Constant":
                    tensor = attribute.t
                    for key, value in (("location", "m.data"), ("offset", len(data)), ("length", len(tensor.raw_data))):
                        tensor.external_data.add(key=key, value=str(value))
                    data.extend(tensor.raw_data)
                    tensor.ClearField("raw_data")
                    tensor.data_location = TensorProto.EXTERNAL

    emptied(model.graph.node)
    for function in model.functions:
        emptied(function.node)
    path.write_bytes(model.SerializeToString())
    path.with_name("m.data").write_bytes(data)


@pytest.mark.parametrize(("make", "exact"), [(constant_nodes, X @ W.T @ V.T), (a_function, X @ W.T)])
def test_data_of_attributes(tmp_path: Path, make: Layout, exact: np.ndarray) -> None:
    make(tmp_path / "m.onnx")
    (tmp_path / "out").mkdir()
    report = kx.sparsify_onnx(tmp_path / "m.onnx", tmp_path / "out" / "m.onnx", tune=False, verify=False)
    assert_stands_alone(tmp_path / "out" / "m.onnx", report, exact)


def hub_cache(folder: Path) -> Path:
    """Model and data are links into a store, under names that say nothing."""
    src = two_products(folder / "m.onnx")
    moved_out(src, LAYOUTS["one file"])
    for name in ("blobs", "snapshots/main"):
        (folder / name).mkdir(parents=True)
    for name, blob in (("m.onnx", "aa"), ("m.data", "bb")):
        (folder / name).rename(folder / "blobs" / blob)
        (folder / "snapshots/main" / name).symlink_to(f"../../blobs/{blob}")
    return folder / "snapshots/main/m.onnx"


def hard_links(folder: Path) -> Path:
    src = two_products(folder / "m.onnx")
    moved_out(src, LAYOUTS["one file"])
    for name in ("m.onnx", "m.data"):
        os.link(folder / name, folder / f"{name} in the cache")
    return src


def a_linked_folder(folder: Path) -> Path:
    (folder / "real").mkdir()
    moved_out(two_products(folder / "real" / "m.onnx"), LAYOUTS["folders below"])
    (folder / "link").symlink_to("real")
    return folder / "link" / "m.onnx"


def a_link_to_the_model_alone(folder: Path) -> Path:
    (folder / "real").mkdir()
    moved_out(two_products(folder / "real" / "m.onnx"), LAYOUTS["one file"])
    (folder / "link.onnx").symlink_to("real/m.onnx")
    return folder / "link.onnx"


@pytest.mark.parametrize("install", [hub_cache, hard_links, a_linked_folder, a_link_to_the_model_alone])
@pytest.mark.parametrize("is_relative", [True, False])
def test_links(
    tmp_path: Path, install: Callable[[Path], Path], is_relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = install(tmp_path)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(src.parent if is_relative else tmp_path)
    report = kx.sparsify_onnx(src.name if is_relative else src, tmp_path / "out" / "m.onnx", tune=False)
    assert report.max_error is not None
    assert_stands_alone(tmp_path / "out" / "m.onnx", report, X @ W.T @ V.T)


def test_nothing_gained_and_data_outside(tmp_path: Path) -> None:
    """The source's own bytes, and yet a file that stands alone."""
    rng = np.random.default_rng(0)
    full = rng.standard_normal((128, 128)).astype("f")
    src = product(tmp_path / "m.onnx", full.T)
    moved_out(src, {"w": ("m.data", 0)})
    (tmp_path / "out").mkdir()
    report = kx.sparsify_onnx(src, tmp_path / "out" / "m.onnx", tune=False)
    assert any("source's own" in note for note in report.notes)
    assert report.bytes <= report.dense_bytes
    assert_stands_alone(tmp_path / "out" / "m.onnx", report, X @ full)


def test_the_place_of_the_sources_data_is_taken(tmp_path: Path) -> None:
    src = two_products(tmp_path / "m.onnx")
    moved_out(src, LAYOUTS["one file"])
    before = (tmp_path / "m.data").read_bytes()
    with pytest.raises(kx.KronfxError, match="has its external data"):
        kx.sparsify_onnx(src, tmp_path / "m.data", tune=False)
    assert (tmp_path / "m.data").read_bytes() == before


def test_a_source_too_large_for_one_file(tmp_path: Path) -> None:
    """With the limit lowered: its data is beside it again, in one file of its name."""
    src, copy = two_products(tmp_path / "m.onnx"), tmp_path / "out" / "new.onnx"
    moved_out(src, LAYOUTS["folders below"])
    copy.parent.mkdir()
    size = Original(src, 0, (tmp_path / "parts",)).copy(copy, copy, limit=2**24 + 1000)
    assert sorted(file.name for file in copy.parent.iterdir()) == ["new.onnx", "new.onnx.data"]
    assert size == sum(file.stat().st_size for file in copy.parent.iterdir())
    assert_same(answers(copy, x=X)[0], X @ W.T @ V.T)


def test_values_are_mapped_and_not_read(tmp_path: Path) -> None:
    src = two_products(tmp_path / "m.onnx")
    moved_out(src, LAYOUTS["one file"])
    model = opened(src).model
    for value in model.graph.initializers.values():
        assert isinstance(value.const_value, ir.Tensor)
        array = value.const_value.numpy()
        while array.base is not None and not isinstance(array, np.memmap):
            array = array.base
        assert isinstance(array, np.memmap)


@pytest.mark.parametrize("kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN])
def test_types_that_numpy_does_not_know(tmp_path: Path, kind: int) -> None:
    """Sub-byte ones are packed two a byte, outside as inside."""
    array = np.random.default_rng(0).integers(0, 7, (51, 51)).astype(helper.tensor_dtype_to_np_dtype(kind))
    tensor = numpy_helper.from_array(array, "w")
    cast = helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [51, 51])
    model = helper.make_model(
        helper.make_graph([cast], "g", [], [out], [tensor]), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    src = tmp_path / "m.onnx"
    src.write_bytes(model.SerializeToString())
    moved_out(src, {"w": ("w", 5)})
    found = opened(src).model.graph.initializers["w"].const_value
    assert found is not None
    np.testing.assert_array_equal(found.numpy().astype(float), array.astype(float))
    assert found.tobytes() == tensor.raw_data
