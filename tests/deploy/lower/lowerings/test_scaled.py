"""Weights of 4 and 8 bits that are dequantized in front of a floating product: lowered, few bits in the file still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_files import answers, assert_same, constants, evaluated, normal, ops, runtime_ops, sparse
from onnx_spellings import many

import kronfx as kx
from kronfx.records import KroneckerShape

KINDS = {"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int4": TensorProto.INT4, "uint4": TensorProto.UINT4}
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
INTEGERS = {getattr(ir.DataType, name) for name in ("INT4", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16")}
NODES = {
    "MatMul": (helper.make_node("MatMul", ["x", "d"], ["y"]), "nm"),
    "Gemm": (helper.make_node("Gemm", ["x", "d"], ["y"], transB=1, alpha=0.5), "mn"),
    "from the left": (helper.make_node("MatMul", ["d", "x"], ["y"]), "mn"),
    "Conv": (helper.make_node("Conv", ["x", "d"], ["y"]), "mn"),
}


def tensor(kind: str, array: np.ndarray, name: str) -> onnx.TensorProto:
    return helper.make_tensor(name, KINDS[kind], array.shape, array.ravel().tolist())


def weight_only(
    path: Path, kind: str, along: str, spelling: str, shape: KroneckerShape, zero: float, half: bool = False
) -> tuple[Path, np.ndarray, np.ndarray]:
    """A product by ``W [m, n]`` of few bits, an ``x``, and ``W x``; ``along`` what it has scales and zero points."""
    rng, (low, high) = np.random.default_rng(0), LIMITS[kind]
    node, labels = NODES[spelling]
    m, n, is_upright = shape.m, shape.n, labels == "mn"
    dims, float_type = (m, n) if is_upright else (n, m), np.float16 if half else np.float32
    axis, run = {
        "tensor": (1, 0), "row": (1 - is_upright, 0), "column": (int(is_upright), 0),
        "runs": (int(is_upright), 4), "runs down": (1 - is_upright, 4),
    }[along]  # fmt: skip
    many_scales = [dims[axis]] if not run else [-(-side // run) if i == axis else side for i, side in enumerate(dims)]
    count = [] if along == "tensor" else many_scales
    scale = (rng.uniform(0.5, 1.5, count) / n**0.5 / high * 2).astype(float_type)
    point = np.asarray(rng.integers(low // 3, high // 3 + 1, count))
    spread = scale, point
    if run:
        spread = tuple(np.repeat(part, run, axis)[: dims[0], : dims[1]] for part in spread)
    elif along != "tensor":
        spread = tuple(np.expand_dims(part, 1 - axis) for part in spread)
    mask = np.kron(rng.random((shape.m1, shape.n1)) >= zero, np.ones(shape.block))
    q = np.where(mask if is_upright else mask.T, rng.integers(low, high + 1, dims), spread[1])
    W = (q - spread[1]).astype(float) * spread[0].astype(float)
    kernel = q[..., None] if spelling == "Conv" else q
    attributes: dict[str, int] = {} if along == "tensor" else {"axis": axis} | ({"block_size": run} if run else {})
    nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], **attributes)]
    held = [tensor(kind, kernel, "w"), numpy_helper.from_array(scale, "s"), tensor(kind, point, "z")]
    x_dims, y_dims = {
        "from the left": ([n, "b"], [m, "b"]),
        "Conv": (["b", n, 3], ["b", m, 3]),
        "Gemm": (["b", n], ["b", m]),
    }.get(spelling, (["b", 3, n], ["b", 3, m]))
    element = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, element, d) for name, d in (("x", x_dims), ("y", y_dims))]
    graph = helper.make_graph([*nodes, node], "g", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    x = normal(*(5 if dim == "b" else dim for dim in x_dims), dtype=float_type)
    exact = W if is_upright else W.T
    axis_of_x = x_dims.index(n) if spelling != "Conv" else 1
    y = np.moveaxis(np.tensordot(x.astype(float), exact, (axis_of_x, 1)), -1, axis_of_x)
    return path, x, y * (0.5 if spelling == "Gemm" else 1)


sides = st.sampled_from([1, 2, 3, 4, 5, 8])
shapes = st.builds(KroneckerShape, st.integers(2, 5), st.integers(2, 5), sides, sides)


@pytest.mark.parametrize("spelling", NODES)
@settings(many, max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    along=st.sampled_from(["tensor", "row", "column", "runs", "runs down"]),
    shape=shapes,
    zero=st.sampled_from([0.3, 0.8, 1.0]),
)
def test_every_kind_computes_the_same(
    tmp_path: Path, spelling: str, kind: str, along: str, shape: KroneckerShape, zero: float
) -> None:
    if "runs" in along and spelling == "Conv":
        along = "row"  # a kernel has four axes, and runs are of a matrix
    src, x, wanted = weight_only(tmp_path / "m.onnx", kind, along, spelling, shape, zero)
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering, block=shape.block)
        onnx.checker.check_model(str(dst), full_check=True)
        (layer,) = report.layers
        assert layer.lowering == (lowering if layer.zero_blocks else "dense")
        assert_same(evaluated(dst, x=x)[0], wanted, 1e-5)
        # onnxruntime multiplies such matrices by an x that it rounds to 8 bits, as it does the source's.
        assert_same(answers(dst, x=x)[0], answers(src, x=x)[0] if layer.lowering == "dense" else wanted, 1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("along", ["tensor", "row", "runs"])
@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_few_bits_in_the_file_and_floating_numbers_once_loaded(
    tmp_path: Path, kind: str, along: str, lowering: str
) -> None:
    shape = KroneckerShape(8, 8, 32, 32)
    src, x, wanted = weight_only(tmp_path / "m.onnx", kind, along, "MatMul", shape, 0.85)
    dst, report = sparse(src, lowering)
    (layer,) = report.layers
    assert (layer.lowering, layer.block) == (lowering, (32, 32))
    assert dst.stat().st_size <= src.stat().st_size
    assert_same(answers(dst, x=x)[0], answers(src, x=x)[0] if lowering == "dense" else wanted, 1e-5)
    verified = kx.sparsify_onnx(src, tmp_path / "v.onnx", lowering=lowering, tune=False)
    assert verified.max_error is not None
    if lowering == "blocks":
        assert constants(dst) <= 256 * (1 if along == "row" else 10)  # scales
        alive = layer.blocks - layer.zero_blocks
        stored = constants(dst, "iuV")  # entries of a type that numpy does not know too
        assert stored <= 1.1 * alive * 1024 + 8 * layer.blocks
        assert types(dst) <= {ir.DataType.FLOAT, *INTEGERS}
        assert {"Cast", "DequantizeLinear"}.isdisjoint(runtime_ops(dst, tmp_path))


def test_layers_of_one_input_are_one_product(tmp_path: Path) -> None:
    """q, k and v, of scales of every kind."""
    shape = KroneckerShape(4, 4, 8, 8)
    parts = [
        onnx.load(weight_only(tmp_path / f"{along}.onnx", kind, along, "MatMul", shape, 0.5)[0])
        for kind, along in (("int8", "tensor"), ("uint8", "row"), ("int8", "runs"))
    ]
    nodes, held = [], []
    for i, part in enumerate(parts):
        rename = {name: f"{name}{i}" for name in "wszdy"}
        for node in part.graph.node:
            node.input[:] = [rename.get(name, name) for name in node.input]
            node.output[:] = [rename[name] for name in node.output]
            nodes.append(node)
        for initializer in part.graph.initializer:
            initializer.name = rename[initializer.name]
            held.append(initializer)
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["b", 3, 32]) for i in range(3)]
    graph = helper.make_graph(nodes, "g", parts[0].graph.input, outputs, held)
    src = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), src)
    dst, report = sparse(src, block=(8, 8))
    assert [layer.lowering for layer in report.layers] == ["blocks"] * 3
    buckets = sum(name.endswith("/blocks") for name in (value.name for value in onnx.load(dst).graph.initializer))
    assert ops(dst).count("MatMul") == buckets
    x = normal(2, 3, 32)
    for found, wanted in zip(answers(dst, x=x), evaluated(src, x=x), strict=True):
        assert_same(found, wanted, 1e-5)


def test_half_precision(tmp_path: Path) -> None:
    shape = KroneckerShape(4, 4, 16, 16)
    src, x, wanted = weight_only(tmp_path / "m.onnx", "int8", "row", "MatMul", shape, 0.8, half=True)
    for lowering in ("dense", "blocks"):
        dst, report = sparse(src, lowering)
        assert [layer.lowering for layer in report.layers] == [lowering]
        assert_same(evaluated(dst, x=x)[0], wanted, 1e-2)


def test_what_is_timed_alone_is_what_runs(tmp_path: Path) -> None:
    shape = KroneckerShape(8, 8, 32, 32)
    src, x, wanted = weight_only(tmp_path / "m.onnx", "int8", "row", "MatMul", shape, 0.9)
    report = kx.sparsify_onnx(src, tmp_path / "s.onnx", rows=(1, 64))
    assert "by the clock" in report.layers[0].why or "as a whole" in report.layers[0].why
    assert "does not run it here" not in str(report)
    assert_same(answers(tmp_path / "s.onnx", x=x)[0], wanted, 2e-2)  # as the source, whose x onnxruntime rounds


def test_scales_that_are_not_finite(tmp_path: Path) -> None:
    shape = KroneckerShape(4, 4, 16, 16)
    src, *_ = weight_only(tmp_path / "m.onnx", "int8", "tensor", "MatMul", shape, 0.8)
    model = onnx.load(src)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(np.inf, np.float32), "s"))
    onnx.save(model, src)
    with pytest.raises(kx.KronfxError, match="NaN or infinite"):
        sparse(src)


def types(path: Path) -> set[Any]:
    return {ir.DataType(value.data_type) for value in onnx.load(path).graph.initializer}


def test_four_bits_stay_four(tmp_path: Path) -> None:
    src, *_ = weight_only(tmp_path / "m.onnx", "int4", "tensor", "MatMul", KroneckerShape(4, 4, 16, 16), 0.5)
    model = onnx.load(src)
    model.graph.initializer[2].CopyFrom(helper.make_tensor("z", TensorProto.INT4, [], [0]))
    onnx.save(model, src)
    assert ir.DataType.INT4 in types(sparse(src)[0])
