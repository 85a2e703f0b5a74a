"""Every lowering of every spelling of a linear map, against the dense product in numpy: in onnxruntime and in ONNX's
reference evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import answers, assert_same, constants, evaluated, onnx_file, ops, planted, sparse
from oracles import dense, random_factors

from kronfx import deploy
from kronfx.deploy.choose.one_layer import alone
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.find.layers import linear_maps
from kronfx.deploy.pipeline import Source
from kronfx.deploy.pipeline import deploy as deploy_graph
from kronfx.deploy.sparsify import read_source
from kronfx.layers import Factors
from kronfx.records import Evaluation, KroneckerShape

# Relative to max(1, max|y|): a few hundred products of numbers near 1, in the type itself.
TOLERANCES = {np.float32: 1e-5, np.float64: 1e-13, np.float16: 1e-2}
TYPES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.float16: TensorProto.FLOAT16}
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # every example overwrites its files


@dataclass(frozen=True)
class Spelling:
    """Nodes that compute ``W x``; ``axes`` those of ``x``, ``n`` standing for the features."""

    nodes: tuple[Any, ...]
    axes: tuple[str, ...]
    stored: Any = np.transpose
    bias: bool = False

    def dims(self, features: int, sizes: dict[str, int] | None = None) -> list[Any]:
        known: dict[str, Any] = {"n": features, **(sizes or {})}
        return [known.get(axis, int(axis) if axis.isdigit() else axis) for axis in self.axes]

    def exact(self, W: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The product in float64, features first, and back."""
        axis = self.axes.index("n")
        rows = np.moveaxis(x.astype(float), axis, -1) @ W.astype(float).T + (bias.astype(float) if self.bias else 0)
        return np.moveaxis(rows, -1, axis)


def kernel(taps: int) -> Any:
    return lambda W: W.reshape(*W.shape, *[1] * taps)


product = (("MatMul", "x w", "y"),)
flattened = (
    ("Reshape", "x flat", "rows"),
    ("Gemm", "rows w c", "out", {"transB": 1}),
    ("Reshape", "out back", "y"),
)
SPELLINGS = {
    "MatMul": Spelling(product, ("b", "n")),
    "MatMul of sequences": Spelling(product, ("b", "s", "n")),
    "MatMul of short sequences": Spelling(product, ("b", "5", "n")),
    "MatMul of heads": Spelling(product, ("b", "h", "s", "n")),
    "MatMul and Add": Spelling((("MatMul", "x w", "h"), ("Add", "h c", "y")), ("b", "s", "n"), bias=True),
    "Add in front": Spelling((("MatMul", "x w", "h"), ("Add", "c h", "y")), ("b", "n"), bias=True),
    "from the left": Spelling((("MatMul", "w x", "y"),), ("n", "b"), lambda W: W),
    "from the left, batched": Spelling((("MatMul", "w x", "y"),), ("b", "n", "s"), lambda W: W),
    "Gemm": Spelling((("Gemm", "x w", "y"),), ("b", "n")),
    "Gemm with a bias": Spelling((("Gemm", "x w c", "y"),), ("b", "n"), bias=True),
    "Gemm, upright": Spelling((("Gemm", "x w c", "y", {"transB": 1}),), ("b", "n"), lambda W: W, bias=True),
    "Gemm of flattened sequences": Spelling(flattened, ("b", "s", "n"), lambda W: W, bias=True),
    "Conv1d": Spelling((("Conv", "x w c", "y"),), ("b", "n", "s"), kernel(1), bias=True),
    "Conv2d": Spelling((("Conv", "x w", "y"),), ("b", "n", "h", "s"), kernel(2)),
    "Conv2d with a bias": Spelling((("Conv", "x w c", "y"),), ("b", "n", "h", "s"), kernel(2), bias=True),
}  # fmt: skip


NAMELESS = {
    "Conv1d",
    "Conv2d",
    "Conv2d with a bias",
    "Gemm of flattened sequences",
    "MatMul of heads",
    "MatMul of short sequences",
    "from the left",
    "from the left, batched",
}


def written(folder: Path, spelling: Spelling, W: np.ndarray, bias: np.ndarray) -> Path:
    m, n = W.shape
    reshapes = {"flat": np.array([-1, n]), "back": np.array([0, -1, m])}
    used = {name for node in spelling.nodes for name in node[1].split()}
    weights = {"w": spelling.stored(W), "c": bias[:, None] if spelling.axes[0] == "n" else bias}
    given = {name: array for name, array in {**weights, **reshapes}.items() if name in used}
    kind = TYPES[W.dtype.type]
    src, inputs, outputs = folder / "dense.onnx", {"x": spelling.dims(n)}, {"y": spelling.dims(m)}
    if "back" in used:  # shape inference cannot tell that the second axis is the sequence again
        given["back"] = np.array([-1, 3, m])
        inputs, outputs = {"x": ["b", 3, n]}, {"y": ["b", 3, m]}
    return onnx_file(src, spelling.nodes, inputs, outputs, given, types={"x": kind, "y": kind})


def hold(src: Path, dst: Path, feeds: dict[str, np.ndarray], wanted: np.ndarray, tolerance: float) -> None:
    """Both runtimes answer what is wanted, in the type of the source."""
    onnx.checker.check_model(str(dst), full_check=True)
    for y in (answers(dst, **feeds)[0], evaluated(dst, **feeds)[0]):
        assert_same(y, wanted, tolerance)
        assert y.dtype == evaluated(src, **feeds)[0].dtype


sides = st.sampled_from([1, 2, 3, 5, 7, 8, 11])
grids = st.builds(KroneckerShape, st.integers(1, 6), st.integers(1, 6), sides, sides)
shares = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


@many
@given(
    st.sampled_from(sorted(SPELLINGS)),
    st.sampled_from(["dense", "blocks"]),
    grids,
    shares,
    st.sampled_from([np.float32, np.float64, np.float16]),
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9)),
)
def test_every_spelling_computes_the_dense_product(
    tmp_path_factory: Any, name: str, lowering: str, grid: KroneckerShape, zero: float, dtype: Any, sizes: Any
) -> None:
    folder, spelling = tmp_path_factory.mktemp("spelling"), SPELLINGS[name]
    assume(dtype is np.float32 or spelling.nodes[0][0] != "Conv")  # onnxruntime has no other kernel for it
    W = planted(grid.m, grid.n, grid.block, zero, dtype=dtype)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(grid.m).astype(dtype)
    src = written(folder, spelling, W, bias)
    dst, report = sparse(src, lowering, block=grid.block)
    known = {"b": sizes[0], "h": sizes[1], "s": 3 if "back" in str(spelling.nodes) else sizes[2]}
    x = rng.standard_normal(spelling.dims(grid.n, known)).astype(dtype)
    hold(src, dst, {"x": x}, spelling.exact(W, bias, x), TOLERANCES[dtype])

    (layer,) = report.layers
    has_zeros = grid.blocks > 1 and bool(layer.zero_blocks)
    alive = (W.reshape(grid.m1, grid.m2, grid.n1, grid.n2) != 0).any(axis=(1, 3)).sum()
    assert layer.zero_blocks == (grid.blocks - alive if grid.blocks > 1 else 0)
    assert layer.lowering == ("blocks" if lowering == "blocks" and (has_zeros or zero == 1) else "dense")


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_every_spelling_is_lowered(tmp_path: Path, name: str) -> None:
    """So that the property above holds of the lowerings and not of layers left alone."""
    W = planted(48, 40, (8, 8))
    src = written(tmp_path, SPELLINGS[name], W, np.ones(48, np.float32))
    dst, report = sparse(src)
    assert [(layer.m, layer.n, layer.block, layer.lowering) for layer in report.layers] == [(48, 40, (8, 8), "blocks")]
    assert W.size not in [int(np.prod(tensor.dims)) for tensor in onnx.load(dst).graph.initializer]


@pytest.mark.parametrize("name", sorted(SPELLINGS))
def test_inputs_and_outputs_keep_their_names(tmp_path: Path, name: str) -> None:
    src = written(tmp_path, SPELLINGS[name], planted(48, 40, (8, 8)), np.ones(48, np.float32))
    graph = onnx.load(sparse(src)[0]).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [value.name for value in graph.output] == ["y"]


@many
@given(
    st.sampled_from(["a_first", "b_first"]),
    st.builds(KroneckerShape, *[st.integers(1, 7)] * 4),
    st.integers(1, 3),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["MatMul", "MatMul of sequences", "MatMul of short sequences", "MatMul of heads", "Gemm, upright",
                     "from the left, batched", "Gemm of flattened sequences"]),
)  # fmt: skip
def test_factors_compute_the_dense_product(
    tmp_path_factory: Any, evaluation: Evaluation, shape: KroneckerShape, rank: int, dtype: Any, name: str
) -> None:
    folder, spelling = tmp_path_factory.mktemp("factors"), SPELLINGS[name]
    parts = random_factors((shape.m1, shape.n1, shape.m2, shape.n2), rank, torch.float64)
    W = (dense(parts.S, parts.A, parts.B).numpy() / shape.n**0.5).astype(dtype)
    factors = Factors(parts.S, parts.A / shape.n**0.5, parts.B)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(shape.m).astype(dtype)
    src = written(folder, spelling, W, bias)
    dst = src.with_name("factors.onnx")
    source = Source(read_source(src).model, (KnownWeight("fc", shape, W, factors, evaluation),))
    report = deploy_graph(source, dst, deploy.checked("factors", False, (1,), "latency", None), None, lambda _: None)
    assert [(layer.site, layer.lowering) for layer in report.layers] == [("fc", "factors")]
    sizes = {"b": 2, "h": 3, "s": 3 if "back" in str(spelling.nodes) else 4}
    x = rng.standard_normal(spelling.dims(shape.n, sizes)).astype(dtype)
    # Three roundings of operands and intermediates whose terms can cancel: ten times what one product is held to.
    tolerance = TOLERANCES[np.float32]  # for float64 too, as long as the operands are rounded to float32 (see below)
    hold(src, dst, {"x": x}, spelling.exact(W, bias, x), 10 * tolerance * rank)
    assert report.layers[0].bytes == W.itemsize * rank * (shape.m1 * shape.n1 + shape.m2 * shape.n2)


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
def test_factors_in_float64(tmp_path: Path, evaluation: Evaluation) -> None:
    shape, parts = KroneckerShape(3, 4, 5, 2), random_factors((3, 4, 5, 2), 2)
    W = dense(parts.S, parts.A, parts.B).numpy()
    src = written(tmp_path, SPELLINGS["MatMul"], W, np.zeros(15))
    weight = KnownWeight("fc", shape, W, Factors(parts.S, parts.A, parts.B), evaluation)
    source = Source(read_source(src).model, (weight,))
    dst = tmp_path / "factors.onnx"
    deploy_graph(source, dst, deploy.checked("factors", False, (1,), "latency", None), None, lambda _: None)
    x = np.random.default_rng(0).standard_normal((3, 8))
    hold(src, dst, {"x": x}, x @ W.T, 10 * TOLERANCES[np.float64])


def rows_and_columns(kind: str) -> np.ndarray:
    """A mask ``[m1, n1]``."""
    mask = np.ones((8, 6))
    mask[1, 2] = 0
    if kind == "zero rows":
        mask[[0, 3, 4, 5]] = 0
    elif kind == "zero columns":
        mask[:, [0, 5]] = 0
    elif kind == "one block":
        mask[:] = 0
        mask[5, 3] = 1
    elif kind == "nothing":
        mask[:] = 0
    elif kind == "a triangle":
        mask = np.tri(8, 6)
    return mask


@pytest.mark.parametrize("kind", ["zero rows", "zero columns", "one block", "nothing", "a triangle"])
@pytest.mark.parametrize("name", ["MatMul of sequences", "Gemm with a bias", "Conv2d with a bias"])
def test_zero_rows_and_columns_are_removed_outright(tmp_path: Path, kind: str, name: str) -> None:
    mask, spelling = rows_and_columns(kind), SPELLINGS[name]
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((64, 48)) * np.kron(mask, np.ones((8, 8)))).astype(np.float32)
    bias = rng.standard_normal(64).astype(np.float32)
    src = written(tmp_path, spelling, W, bias)
    dst, report = sparse(src, block=(8, 8))
    x = rng.standard_normal(spelling.dims(48, {"b": 2, "s": 5, "h": 3})).astype(np.float32)
    hold(src, dst, {"x": x}, spelling.exact(W, bias, x), TOLERANCES[np.float32])

    alive = int(mask.sum())
    assert report.layers[0].zero_blocks == 48 - alive
    padding, row_of_zeros = alive / 32, alive / 64  # stored only where it is that small; else nodes make it of one 0
    assert constants(dst) <= 64 * (alive + padding + row_of_zeros) + 1 + (64 if spelling.bias else 0)


def test_columns_that_no_row_reads_are_never_touched(tmp_path: Path) -> None:
    W = planted(32, 64, (8, 8), 0.5)
    W[:, 16:40] = 0
    src = written(tmp_path, SPELLINGS["MatMul"], W, np.zeros(32, np.float32))
    dst, _ = sparse(src, block=(8, 8))
    x = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    wanted = x.astype(float) @ W.T
    x[:, 16:40] = np.nan
    for y in (answers(dst, x=x)[0], evaluated(dst, x=x)[0]):
        assert_same(y, wanted, TOLERANCES[np.float32])


def test_nothing_zero_means_nothing_to_lower(tmp_path: Path) -> None:
    src = written(tmp_path, SPELLINGS["MatMul"], planted(48, 40, (8, 8), 0), np.zeros(48, np.float32))
    dst, report = sparse(src)
    assert [(layer.lowering, layer.block, layer.zero_blocks) for layer in report.layers] == [("dense", None, 0)]
    assert ops(dst) == ["MatMul"]
    assert report.bytes <= src.stat().st_size + 300  # kronfx's record


def integer_file(folder: Path, W: np.ndarray, zero: np.ndarray, axes: list[Any]) -> Path:
    """What ``quantize_dynamic`` writes, made by hand: ``y = (x - x0) (W - zero)^T`` of a float ``x``."""
    nodes = [
        ("DynamicQuantizeLinear", "x", "q scale x0"),
        ("MatMulInteger", "q w x0 zero", "sum"),
        ("Cast", "sum", "f", {"to": TensorProto.FLOAT}),
        ("Mul", "f scale", "y"),
    ]
    m, n = W.shape
    src = folder / "integer.onnx"
    weights = {"w": W.T, "zero": zero}
    return onnx_file(src, nodes, {"x": [*axes, n]}, {"y": [*axes, m]}, weights, opset=20)


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize("name", [*SPELLINGS, "8 bits", "8 bits, sequences"])
def test_a_layer_on_its_own_computes_its_product(tmp_path: Path, name: str, lowering: Any) -> None:
    """What the tuner times is the layer, in every spelling, at the number of rows that was asked for."""
    W, bias = planted(12, 20, (4, 4), 0.5), np.arange(12, dtype=np.float32)
    if name.startswith("8 bits"):
        W = np.round(40 * W).astype(np.int8)
        src = integer_file(tmp_path, W, np.array(0, np.int8), ["b", "s"] if "seq" in name else ["b"])
    else:
        src = written(tmp_path, SPELLINGS[name], W, bias)
    model = read_source(src).model
    (layer,) = linear_maps(model.graph, block=(4, 4)).layers
    single, x = alone(layer, lowering, 6)
    assert x.size == 6 * 20
    ir.save(single, tmp_path / "alone.onnx")
    axis = 1 if "Conv" in name else x.ndim - 2 if "left" in name else x.ndim - 1
    rows = np.moveaxis(x.astype(float), axis, -1) @ W.astype(float).T
    wanted = np.moveaxis(rows + (bias if layer.linear.bias is not None else 0), -1, axis)
    y = answers(tmp_path / "alone.onnx", x=x)[0]
    step = (max(0, x.max()) - min(0, x.min())) / 255  # an 8-bit input is half a step off, 20 of them add up
    assert_same(y, wanted, 20 * 127 * step / abs(wanted).max() if name.startswith("8") else 1e-5)


@many
@given(grids, shares, st.sampled_from(["int8", "uint8", "uint8 around 128", "int8 a column"]), st.booleans())
def test_8_bit_products_are_the_same_to_the_bit(
    tmp_path_factory: Any, grid: KroneckerShape, zero: float, kind: str, sequences: bool
) -> None:
    folder, rng = tmp_path_factory.mktemp("integer"), np.random.default_rng(0)
    mask = planted(grid.m, grid.n, grid.block, zero) != 0
    values = rng.integers(-127, 128, mask.shape) * mask
    point: Any = np.array(0, np.int8)
    W = values.astype(np.int8)
    if kind == "uint8":
        W, point = np.abs(values).astype(np.uint8), np.array(0, np.uint8)
    elif kind == "uint8 around 128":
        W, point = (values + 128).astype(np.uint8), np.array(128, np.uint8)
    elif kind == "int8 a column":
        point = np.zeros(grid.m, np.int8)
    src = integer_file(folder, W, point, ["b", "s"] if sequences else ["b"])
    x = rng.standard_normal((2, 3, grid.n) if sequences else (3, grid.n)).astype(np.float32)
    for lowering in ("dense", "blocks"):
        dst, _ = sparse(src, lowering, block=grid.block)
        np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])
        np.testing.assert_array_equal(evaluated(dst, x=x)[0], evaluated(src, x=x)[0])


def test_8_bit_products_gather_8_bit_activations(tmp_path: Path) -> None:
    W = (127 * planted(64, 64, (8, 8), 0.5) / 3).astype(np.int8)
    dst, report = sparse(integer_file(tmp_path, W, np.array(0, np.int8), ["b"]), block=(8, 8))
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    assert constants(dst) == 0
    assert constants(dst, "iu") < 64 * 64 * 0.6 + 200
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(onnx.load(dst)).graph.value_info
    }
    read = [types[node.input[1]] for node in onnx.load(dst).graph.node if node.op_type == "MatMulInteger"]
    assert read
    assert set(read) == {TensorProto.UINT8}


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_bfloat16_in_the_reference_evaluator(tmp_path: Path, lowering: str) -> None:
    """onnxruntime has no CPU kernels for it."""
    W = planted(48, 40, (8, 8))
    kind = ir.DataType.BFLOAT16.numpy()
    src = onnx_file(
        tmp_path / "b.onnx",
        [("MatMul", "x w", "y")],
        {"x": ["b", 40]},
        {"y": ["b", 48]},
        {"w": W.T.astype(kind)},
        types={"x": TensorProto.BFLOAT16, "y": TensorProto.BFLOAT16},
    )
    dst, report = sparse(src, lowering, verify=True)
    assert report.runtime == "ONNX's reference evaluator"
    assert report.layers[0].bytes < report.layers[0].dense_bytes / 2 == 48 * 40
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(kind)
    exact = x.astype(float) @ W.astype(kind).astype(float).T
    assert_same(evaluated(dst, x=x)[0], exact, 2e-2)  # 8 bits of mantissa: 2^-8 a rounding, a few of them


TIED = [("MatMul", "x w", "h"), ("Relu", "h", "r")]


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize("size", [(48, 40), (48, 48)])
def test_one_constant_that_is_read_in_both_orientations(tmp_path: Path, lowering: str, size: tuple[int, int]) -> None:
    """As the encoder and decoder of a tied autoencoder read it."""
    m, n = size
    W = planted(m, n, (8, 4), 0.6)
    nodes = [*TIED, ("Gemm", "r w", "y", {"transB": 1})]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", n]}, {"y": ["b", n]}, {"w": W.T})
    dst, _ = sparse(src, lowering, block=(8, 4) if m == n else None)
    x = np.random.default_rng(0).standard_normal((5, n)).astype(np.float32)
    hold(src, dst, {"x": x}, np.maximum(x.astype(float) @ W.T, 0) @ W, TOLERANCES[np.float32])


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_one_constant_that_two_products_read_is_stored_once(tmp_path: Path, lowering: str) -> None:
    W = planted(48, 48, (8, 8), 0.6)
    nodes = [*TIED, ("MatMul", "r w", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 48]}, {"y": ["b", 48]}, {"w": W.T})
    dst, report = sparse(src, lowering)
    x = np.random.default_rng(0).standard_normal((5, 48)).astype(np.float32)
    hold(src, dst, {"x": x}, np.maximum(x.astype(float) @ W.T, 0) @ W.T, TOLERANCES[np.float32])
    (layer,) = report.layers
    assert constants(dst) <= 64 * (36 - layer.zero_blocks) * 33 / 32 + 64


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_a_weight_and_its_transpose_as_two_constants(tmp_path: Path, lowering: str) -> None:
    W = planted(48, 40, (8, 8), 0.6)
    nodes = [*TIED, ("MatMul", "r v", "y")]
    src = onnx_file(tmp_path / "m.onnx", nodes, {"x": ["b", 40]}, {"y": ["b", 40]}, {"w": W.T, "v": W})
    dst, _ = sparse(src, lowering)
    x = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    hold(src, dst, {"x": x}, np.maximum(x.astype(float) @ W.T, 0) @ W, TOLERANCES[np.float32])
    if lowering == "dense":
        assert constants(dst) <= np.count_nonzero(W) + 64  # and one block of zeros


@pytest.mark.parametrize("kind", ["stride", "pads", "alpha", "transA", "both computed"])
def test_what_is_no_such_product_is_left_alone(tmp_path: Path, kind: str) -> None:
    W = planted(48, 48, (8, 8), 0.6)
    convolution = ({"x": [2, 48, 6]}, {"y": [2, 48, None]}, {"w": W[..., None]})
    matrix = ({"x": [48, 48]}, {"y": [48, 48]}, {"w": W})
    node, parts = {
        "stride": (("Conv", "x w", "y", {"strides": [2]}), convolution),
        "pads": (("Conv", "x w", "y", {"pads": [1, 1]}), convolution),
        "alpha": (("Gemm", "x w", "y", {"alpha": 2.0}), matrix),
        "transA": (("Gemm", "x w", "y", {"transA": 1}), matrix),
        "both computed": (("MatMul", "x x", "y"), ({"x": [48, 48]}, {"y": [48, 48]}, {})),
    }[kind]
    src = onnx_file(tmp_path / "m.onnx", [node], *parts)
    dst, report = sparse(src)
    assert report.layers == ()
    assert ops(dst) == [node[0]]
    x = np.random.default_rng(0).standard_normal(parts[0]["x"]).astype(np.float32)
    np.testing.assert_array_equal(answers(dst, x=x)[0], answers(src, x=x)[0])


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize(("block", "zero"), [((8, 8), 0.5), ((16, 16), 0.9), ((32, 32), 0.75), ((64, 8), 0.9)])
def test_files_are_as_small_as_what_survives(
    tmp_path: Path, lowering: str, block: tuple[int, int], zero: float
) -> None:
    """At most 1.05 times the surviving bytes, and what the file holds besides weights."""
    W = planted(1024, 512, block, zero)
    bare = onnx_file(tmp_path / "bare.onnx", product, {"x": ["b", 1]}, {"y": ["b", 1]}, {"w": np.ones((1, 1), "f")})
    dst, report = sparse(written(tmp_path, SPELLINGS["MatMul"], W, np.zeros(1024, np.float32)), lowering)
    besides = bare.stat().st_size + 4000  # names and nodes: some thirty a layer
    assert report.bytes == dst.stat().st_size
    assert report.bytes <= 1.05 * 4 * np.count_nonzero(W) + besides
    assert report.layers[0].bytes <= 1.05 * 4 * np.count_nonzero(W)


def test_a_few_zero_rows_cost_little(tmp_path: Path) -> None:
    W = planted(512, 512, (16, 16), 0.5)
    W[32:64] = 0
    dst, report = sparse(written(tmp_path, SPELLINGS["MatMul"], W, np.zeros(512, np.float32)))
    assert report.bytes == dst.stat().st_size <= 1.05 * 4 * np.count_nonzero(W) + 4000
