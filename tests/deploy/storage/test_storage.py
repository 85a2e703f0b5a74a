"""Storage of survivors and factors, against the dense weight: by ONNX's reference evaluator and by onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from onnx_files import runtime_ops

from kronfx.deploy.storage import Product, Storage, Survivors, fewest_bytes, product, products, store, survivors
from kronfx.layers import Factors
from kronfx.records import KroneckerShape

dims = st.integers(1, 6)
shapes = st.builds(KroneckerShape, dims, dims, dims, dims)


def block_sparse(shape: KroneckerShape, zero: float, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    """``W [m, n]`` with a random share of zero blocks, by ``np.kron``."""
    rng = np.random.default_rng(seed)
    mask = rng.random((shape.m1, shape.n1)) >= zero
    return (rng.standard_normal((shape.m, shape.n)) * np.kron(mask, np.ones(shape.block))).astype(dtype)


def stored(W: np.ndarray, kept: Storage, consumers: dict[str, bool]) -> ir.Model:
    """A graph whose outputs are copies of ``W`` (or ``W^T`` where the consumer wants it turned), after storage."""
    weights, nodes = [], []
    for name, turned in consumers.items():
        array = np.ascontiguousarray(W.T if turned else W)
        weights.append(ir.Value(name=f"w_{name}", const_value=ir.tensor(array)))
        nodes.append(ir.node("Identity", [weights[-1]]))
        nodes[-1].outputs[0].name = name
        nodes[-1].outputs[0].type = ir.TensorType(ir.tensor(array).dtype)
        nodes[-1].outputs[0].shape = ir.Shape(array.shape)
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([], outputs, nodes=nodes, initializers=weights, opset_imports={"": 18}, name="g")
    turned_ones = [w for w, turned in zip(weights, consumers.values(), strict=True) if turned]
    store(graph, "site", kept, [w for w in weights if w not in turned_ones], turned_ones)
    return ir.Model(graph, ir_version=10)


def evaluate(model: ir.Model) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return ReferenceEvaluator(proto).run(None, {})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("shape", "with_ground"), [(KroneckerShape(24, 20, 8, 8), True), (KroneckerShape(24, 2, 1, 96), False)]
)
def test_a_block_of_zeros_is_stored_where_it_is_small(shape: KroneckerShape, with_ground: bool, turned: bool) -> None:
    W = block_sparse(shape, 0.5)
    (rebuilt,) = evaluate(stored(W, survivors(W, shape), {"w": turned}))
    np.testing.assert_array_equal(rebuilt, W.T if turned else W, strict=True)
    kept = survivors(W, shape)
    assert kept.with_ground is with_ground
    assert kept.bytes <= 1.05 * kept.blocks.nbytes


@given(shapes, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.booleans(), st.sampled_from([np.float16, np.float32, float]))
def test_the_nodes_rebuild_the_weight_bit_by_bit(shape: KroneckerShape, zero: float, turned: bool, dtype: type) -> None:
    W = block_sparse(shape, zero, dtype)
    (rebuilt,) = evaluate(stored(W, survivors(W, shape), {"w": turned}))
    np.testing.assert_array_equal(rebuilt, W.T if turned else W, strict=True)


@given(shapes, st.sampled_from([0.0, 0.5, 1.0]))
def test_only_surviving_blocks_are_kept(shape: KroneckerShape, zero: float) -> None:
    W = block_sparse(shape, zero)
    kept = survivors(W, shape)
    alive = [
        W[p * shape.m2 : (p + 1) * shape.m2, j * shape.n2 : (j + 1) * shape.n2]
        for p in range(shape.m1)
        for j in range(shape.n1)
        if W[p * shape.m2 : (p + 1) * shape.m2, j * shape.n2 : (j + 1) * shape.n2].any()
    ]
    assert kept.zero_blocks == shape.blocks - len(alive)
    np.testing.assert_array_equal(kept.blocks, np.array(alive, np.float32).reshape(-1, *shape.block))
    entries = W.itemsize * shape.m2 * shape.n2
    # A byte for every survivor's gap, or for every slot of the grid and one block of zeros.
    assert entries * len(alive) <= kept.bytes <= entries * (len(alive) + 1) + max(len(alive), shape.blocks)


@pytest.mark.parametrize(
    ("n1", "position", "kind"),
    [(256, 255, np.uint8), (257, 256, np.uint16), (65536, 65535, np.uint16), (65537, 65536, np.int32)],
)
def test_gaps_take_the_smallest_type_that_holds_them(n1: int, position: int, kind: type) -> None:
    shape = KroneckerShape(1, n1, 2, 1)
    W = np.zeros((2, n1), np.float32)
    W[:, position] = 3, -4
    assert survivors(W, shape).gaps.dtype == kind
    (rebuilt,) = evaluate(stored(W, survivors(W, shape), {"w": False}))
    np.testing.assert_array_equal(rebuilt, W)


def test_both_orientations_share_one_set_of_blocks() -> None:
    shape = KroneckerShape(4, 6, 3, 2)
    W = block_sparse(shape, 0.5)
    model = stored(W, survivors(W, shape), {"up": False, "turned": True, "again": False})
    for rebuilt, wanted in zip(evaluate(model), (W, W.T, W), strict=True):
        np.testing.assert_array_equal(rebuilt, wanted)
    floats = [v for v in model.graph.initializers.values() if v.const_value.dtype == ir.DataType.FLOAT]
    assert [value.name for value in floats if value.const_value.size > 1] == ["site/blocks"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("zero", [0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_onnxruntime_folds_it_all_when_it_loads(tmp_path: Path, dtype: type, zero: float, turned: bool) -> None:
    shape = KroneckerShape(5, 7, 4, 3)
    W = block_sparse(shape, zero, dtype)
    model = stored(W, survivors(W, shape), {"w": turned})
    path = tmp_path / "w.onnx"
    ir.save(model, path)
    assert runtime_ops(path, tmp_path) in ([], ["Identity"])
    (rebuilt,) = onnxruntime.InferenceSession(str(path)).run(None, {})
    np.testing.assert_array_equal(rebuilt, W.T if turned else W)


TOLERANCES = {torch.float16: 2e-3, torch.float32: 1e-6, torch.float64: 1e-14}  # relative to max|W|; 4 additions


def factors_of(shape: KroneckerShape, rank: int, cut: tuple[int, int], dtype: torch.dtype = torch.float32) -> Factors:
    """Random factors, half the blocks zero, of a ``W`` that is ``cut`` short of its grid."""
    generator = torch.Generator().manual_seed(0)
    S, A, B = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((shape.m1, shape.n1), (rank, shape.m1, shape.n1), (rank, shape.m2, shape.n2))
    )
    S = S.where(torch.rand(S.shape, generator=generator) < 0.5, 0)
    return Factors(S.to(dtype), A.to(dtype), B.to(dtype), (shape.m - cut[0], shape.n - cut[1]))


def kron(factors: Factors) -> np.ndarray:
    """``W`` by torch.kron, in double precision."""
    S, A, B = factors.S.double(), factors.A.double(), factors.B.double()
    W = sum(torch.kron(S * A[i], B[i]) for i in range(factors.rank))
    return W[: factors.features[0], : factors.features[1]].numpy()


@given(shapes, st.integers(1, 4), st.data(), st.booleans(), st.sampled_from(sorted(TOLERANCES, key=str)))
def test_a_product_rebuilds_the_sum_of_kronecker_products(
    shape: KroneckerShape, rank: int, data: st.DataObject, turned: bool, dtype: torch.dtype
) -> None:
    cut = data.draw(st.integers(0, shape.m2 - 1)), data.draw(st.integers(0, shape.n2 - 1))
    factors = factors_of(shape, rank, cut, dtype)
    W = kron(factors).astype(str(dtype).removeprefix("torch."))
    kept = product(factors, W.shape, W.dtype)
    assert kept.shape == shape
    assert kept.bytes == W.itemsize * rank * (shape.m1 * shape.n1 + shape.m2 * shape.n2)
    (rebuilt,) = evaluate(stored(W, kept, {"w": turned}))
    wanted = W.T if turned else W
    assert (rebuilt.shape, rebuilt.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(rebuilt, wanted, rtol=0, atol=TOLERANCES[dtype] * max(1, np.abs(W).max()))
    zero = np.kron(factors.S.numpy() == 0, np.ones(shape.block))[: W.shape[0], : W.shape[1]].astype(bool)
    assert not (rebuilt.T if turned else rebuilt)[zero].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_onnxruntime_folds_a_product_when_it_loads(tmp_path: Path, dtype: torch.dtype) -> None:
    factors = factors_of(KroneckerShape(5, 7, 4, 3), 3, (2, 1), dtype)
    W = kron(factors).astype(str(dtype).removeprefix("torch."))
    path = tmp_path / "w.onnx"
    ir.save(stored(W, product(factors, W.shape, W.dtype), {"up": False, "turned": True}), path)
    assert set(runtime_ops(path, tmp_path)) <= {"Identity"}
    for rebuilt, wanted in zip(onnxruntime.InferenceSession(str(path)).run(None, {}), (W, W.T), strict=True):
        np.testing.assert_allclose(rebuilt, wanted, rtol=0, atol=TOLERANCES[dtype] * np.abs(W).max())


def test_what_takes_the_fewest_bytes_is_kept() -> None:
    shape = KroneckerShape(24, 24, 8, 8)
    low, high = factors_of(shape, 1, (0, 0)), factors_of(shape, 60, (0, 0))
    for factors, way in ((low, Product), (high, Survivors), (None, Survivors)):
        W = kron(factors or low)
        kept = product(factors, W.shape, W.dtype) if factors else None
        assert isinstance(fewest_bytes(survivors(W.astype("f"), shape), kept), way)
    full = survivors(np.ones((shape.m, shape.n), np.float32), shape)
    assert fewest_bytes(full, None) is None
    assert fewest_bytes(full, product(high, full.dims, np.dtype("f"))) is None  # 60 x (576 + 64) entries of 36,864
    assert fewest_bytes(survivors(np.ones((8, 8), np.float32), KroneckerShape(2, 2, 4, 4)), None) is None


@given(shapes, st.integers(1, 4), st.data(), st.booleans(), st.sampled_from(sorted(TOLERANCES, key=str)))
def test_stored_factors_are_found_again(
    shape: KroneckerShape, rank: int, data: st.DataObject, turned: bool, dtype: torch.dtype
) -> None:
    cut = data.draw(st.integers(0, shape.m2 - 1)), data.draw(st.integers(0, shape.n2 - 1))
    W = kron(factors := factors_of(shape, rank, cut, dtype)).astype(str(dtype).removeprefix("torch."))
    kept = product(factors, W.shape, W.dtype)
    model = stored(W, kept, {"w": turned})
    ((site, found),) = products(model.graph)
    assert site == "site"
    wanted = kept.T if turned else kept
    np.testing.assert_array_equal(found.left, wanted.left, strict=True)
    np.testing.assert_array_equal(found.right, wanted.right, strict=True)
    assert found.dims == wanted.dims
    np.testing.assert_array_equal(found.W, evaluate(model)[0], strict=True)


def test_other_products_of_constants_are_none_of_ours() -> None:
    for names in (("a", "b"), ("site/left", "b"), ("a", "site/right")):
        parts = [ir.Value(name=name, const_value=ir.tensor(np.ones((2, 1, 3, 1), "f"))) for name in names]
        graph = ir.Graph([], [], nodes=[ir.node("MatMul", parts)], initializers=parts, opset_imports={"": 18})
        assert not list(products(graph))


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3, 4, 5), (1, 1, 5, 6)), ((2, 1, 3, 4), (2, 1, 4, 3)), ((4, 4), (4, 4))]
)
def test_others_may_call_constants_left_and_right(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    sizes = {"a/left": left, "a/right": right}
    parts = [ir.Value(name=name, const_value=ir.tensor(np.ones(size, "f"))) for name, size in sizes.items()]
    graph = ir.Graph([], [], nodes=[ir.node("MatMul", parts)], initializers=parts, opset_imports={"": 18})
    assert not list(products(graph))
