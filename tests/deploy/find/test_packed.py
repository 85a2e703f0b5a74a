"""Weights in 4 bits that have zero blocks: stored as what survives, and answering what they answered, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx_files import answers, planted, runtime_ops

import kronfx as kx


def packed_file(path: Path, *weights: np.ndarray, bits: int = 4, size: int = 32, zeros: bool = False) -> Path:
    """Products with each ``W [m, n]`` in turn, packed by plain numpy: ``q = round(W / scale) + zero``."""
    nodes, tensors, read = [], [], "x"
    for i, W in enumerate(weights):
        m, n = W.shape
        runs, middle = -(-n // size), 2 ** (bits - 1)
        cut = np.pad(W, ((0, 0), (0, runs * size - n))).reshape(m, runs, size)
        low, high = cut.min(axis=2, initial=0), cut.max(axis=2, initial=0)
        scales = (high - low) / (2**bits - 1) if zeros else np.abs(cut).max(axis=2) / (middle - 1)
        safe = np.where(scales == 0, 1, scales)
        zero = np.round(-low / safe).astype(int) if zeros else np.full((m, runs), middle)
        entries = np.clip(np.round(cut / safe[:, :, None]) + zero[:, :, None], 0, 2**bits - 1).astype(np.uint8)
        parts = {"B": pack(entries, bits), "scales": scales.astype(np.float32).ravel()}
        if zeros:
            parts["zeros"] = pack(np.pad(zero.astype(np.uint8), ((0, 0), (0, runs % 2))), bits)
        tensors += [numpy_helper.from_array(array, f"{part}{i}") for part, array in parts.items()]
        inputs = [read, *(f"{part}{i}" for part in parts)]
        read = "y" if i == len(weights) - 1 else f"h{i}"
        attributes = {"K": n, "N": m, "bits": bits, "block_size": size, "accuracy_level": 4}
        name = f"/fc{i}/MatMul"
        nodes.append(helper.make_node("MatMulNBits", inputs, [read], name, domain="com.microsoft", **attributes))
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", width])
        for name, width in (("x", weights[0].shape[1]), ("y", weights[-1].shape[0]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    sets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return path


def pack(entries: np.ndarray, bits: int) -> np.ndarray:
    """Entries along the last axis, the first ones in the low bits of each byte."""
    each = 8 // bits
    parts = entries.reshape(*entries.shape[:-1], -1, each).astype(int) << np.arange(each) * bits
    return parts.sum(axis=-1).astype(np.uint8)


def x(rows: int, n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, n)).astype(np.float32)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("block", [(32, 32), (64, 64), (16, 128)])
def test_what_survives_is_stored_and_nothing_else(block: tuple[int, int], zeros: bool, tmp_path: Path) -> None:
    weights = [planted(512, 256, block, 0.9, seed=1), planted(256, 512, block, 0.9, seed=2)]
    src, dst = packed_file(tmp_path / "src.onnx", *weights, zeros=zeros), tmp_path / "dst.onnx"
    report = kx.sparsify_onnx(src, dst)
    assert [(layer.site, layer.m, layer.n, layer.block, layer.lowering) for layer in report.layers] == [
        ("fc0", 512, 256, block, "dense"),
        ("fc1", 256, 512, block, "dense"),
    ]
    blocks = 2 * 512 * 256 // (block[0] * block[1])
    assert sum(layer.zero_blocks for layer in report.layers) == 2 * round(0.9 * blocks / 2)
    alive = 2 * 512 * 256 // 32 - sum(layer.zero_blocks for layer in report.layers) * block[0] * block[1] // 32
    needed = alive * (16 + 4) + (2 * 512 * 256 // 64 if zeros else 0)
    assert dst.stat().st_size < 1.1 * needed + 3500  # names, nodes, the record
    for rows in (1, 7, 130):
        np.testing.assert_array_equal(answers(dst, x=x(rows, 256))[0], answers(src, x=x(rows, 256))[0])


def test_the_runtime_packs_what_it_has_rebuilt(tmp_path: Path) -> None:
    src = packed_file(tmp_path / "src.onnx", planted(256, 256, (32, 32), 0.9))
    kx.sparsify_onnx(src, tmp_path / "dst.onnx")
    assert len(onnx.load(tmp_path / "dst.onnx").graph.node) > 1
    assert runtime_ops(tmp_path / "dst.onnx", tmp_path) == ["MatMulNBits"]


@settings(max_examples=20)
@given(st.data())
def test_any_packing_answers_the_same(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    bits, size = data.draw(st.sampled_from([(4, 16), (4, 32), (4, 128), (8, 32), (2, 32)]))
    m, n = 32 * data.draw(st.integers(1, 5)), 16 * data.draw(st.integers(2, 20))
    block = data.draw(st.sampled_from([(m, 16), (32, 16), (1, n), (8, n)]))
    W = planted(m, n, block, data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])), seed=data.draw(st.integers(0, 9)))
    zeros = bits == 4 and data.draw(st.booleans())
    folder = tmp_path_factory.mktemp("packed")
    src = packed_file(folder / "src.onnx", W, bits=bits, size=size, zeros=zeros)
    kx.sparsify_onnx(src, folder / "dst.onnx", tune=False)
    assert (folder / "dst.onnx").stat().st_size <= src.stat().st_size + 500  # the record
    feeds = {"x": x(5, n)}
    np.testing.assert_array_equal(answers(folder / "dst.onnx", **feeds)[0], answers(src, **feeds)[0])


def test_a_weight_that_something_else_reads_stays(tmp_path: Path) -> None:
    src = packed_file(tmp_path / "src.onnx", planted(256, 256, (32, 32), 0.9))
    model = onnx.load(src)
    model.graph.node.append(helper.make_node("Gather", ["B0", "i"], ["seen"]))
    model.graph.input.append(helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["rows"]))
    model.graph.output.append(helper.make_tensor_value_info("seen", onnx.TensorProto.UINT8, ["rows", 8, 16]))
    onnx.save(model, src)
    report = kx.sparsify_onnx(src, tmp_path / "dst.onnx")
    assert report.layers == ()
    feeds = {"x": x(3, 256), "i": np.arange(3)}
    for found, wanted in zip(answers(tmp_path / "dst.onnx", **feeds), answers(src, **feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_two_products_may_share_a_weight(tmp_path: Path) -> None:
    src = packed_file(tmp_path / "src.onnx", *[planted(256, 256, (32, 32), 0.9)] * 2)
    model = onnx.load(src)
    model.graph.node[1].input[1:] = ["B0", "scales0"]
    onnx.save(model, src)
    report = kx.sparsify_onnx(src, tmp_path / "dst.onnx")
    assert [layer.site for layer in report.layers] == ["fc0"]
    feeds: dict[str, Any] = {"x": x(3, 256)}
    np.testing.assert_array_equal(answers(tmp_path / "dst.onnx", **feeds)[0], answers(src, **feeds)[0])
