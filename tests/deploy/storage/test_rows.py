"""Every row of the table of storages rebuilds the weight, upright and transposed, and says how many bytes it stores."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from kronfx.deploy.storage import STORAGES, Product, store, survivors
from kronfx.records import KroneckerShape

SHAPE = KroneckerShape(6, 5, 4, 3)
DTYPES = (np.float16, np.float32, np.float64)


def integers(*dims: int) -> np.ndarray:
    return np.random.default_rng(len(dims)).integers(-3, 4, dims).astype(float)  # their sums are exact in any type


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [(24, 15), (22, 13)])
@pytest.mark.parametrize("name", STORAGES)
def test_a_row_rebuilds_both(name: str, dims: tuple[int, int], dtype: type) -> None:
    m, n = dims
    S, A, B = integers(6, 5) > 0, integers(6, 5), integers(4, 3)
    W = np.kron(S * A, B)[:m, :n].astype(dtype)
    factors = Product((S * A)[:, None, :, None].astype(dtype), B[None, :, None].astype(dtype), dims)
    way = STORAGES[name](survivors(W, SHAPE), factors)
    assert way is not None
    upright, transposed = (ir.Value(name=key, const_value=ir.tensor(array)) for key, array in (("w", W), ("t", W.T)))
    outputs = []
    for weight, sizes in ((upright, (m, n)), (transposed, (n, m))):
        copy = ir.node("Identity", [weight])
        copy.outputs[0].name, copy.outputs[0].shape = f"{weight.name}_out", ir.Shape(sizes)
        copy.outputs[0].type = ir.TensorType(ir.tensor(W).dtype)
        outputs.append(copy)
    values = [copy.outputs[0] for copy in outputs]
    graph = ir.Graph([], values, nodes=outputs, initializers=[upright, transposed], opset_imports={"": 18}, name="g")
    store(graph, "site", way, [upright], [transposed])
    stored = sum(v.const_value.nbytes for v in graph.initializers.values() if not (v.name or "").startswith("k/"))
    assert stored == way.bytes
    again, other = ReferenceEvaluator(ir.to_proto(ir.Model(graph, ir_version=10))).run(None, {})
    np.testing.assert_array_equal(again, W, strict=True)
    np.testing.assert_array_equal(other, W.T, strict=True)
