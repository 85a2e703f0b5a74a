"""Layouts: what lies between lowered products stays right, and no transpose is there that need not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from onnx_files import N, Node, lowered, weight

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_q_k_and_v_share_one_transpose(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", f"x w{i}", f"y{i}") for i in range(3)]
    out = {f"y{i}": ["b", "s", N] for i in range(3)}
    found = lowered(tmp_path, nodes, out, {f"w{i}": weight(i) for i in range(3)})
    assert found.count("Transpose") == 1 + 3  # one in, one a result


@pytest.mark.parametrize("activation", ["Relu", "Gelu", "Tanh", "Sigmoid", "Exp", "HardSwish", "Identity"])
@pytest.mark.parametrize("zero", [0.6, 0.95])
def test_nothing_is_transposed_between_two_layers(tmp_path: Path, activation: str, zero: float) -> None:
    """With 95% of the blocks zero whole rows are missing: what is not computed has to be f(0 + bias) all the same."""
    nodes: list[Node] = [
        ("MatMul", "x w1", "a"),
        ("Add", "c1 a", "h"),
        (activation, "h", "r"),
        ("MatMul", "r w2", "b"),
        ("Add", "b c2", "y"),
    ]
    rng = np.random.default_rng(0)
    constants = {
        "w1": weight(1, 96, N, zero),
        "w2": weight(2, N, 96, zero),
        "c1": rng.standard_normal(96).astype("f"),
        "c2": rng.standard_normal(N).astype("f"),
    }
    assert lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants).count("Transpose") == 2


@pytest.mark.parametrize("activation", ["Exp", "Sigmoid", "Relu"])
def test_rows_that_are_not_there_have_values_too(tmp_path: Path, activation: str) -> None:
    """Without a bias a missing row is f(0), which need not be zero."""
    constants = {"w1": weight(1, 96, N, 0.97), "w2": weight(2, N, 96)}
    nodes: list[Node] = [("MatMul", "x w1", "h"), (activation, "h", "r"), ("MatMul", "r w2", "y")]
    lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)
    lowered(tmp_path, nodes[:2], {"r": ["b", "s", 96]}, constants)


def test_a_decomposed_gelu(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("Div", "h root", "d"),
        ("Erf", "d", "e"),
        ("Add", "e one", "p"),
        ("Mul", "h p", "hp"),
        ("Mul", "half hp", "g"),
        ("MatMul", "g w2", "y"),
    ]
    scalars = {"root": np.sqrt(2), "one": np.ones(1), "half": np.full((1, 1, 1), 0.5)}
    constants = {"w1": weight(1), "w2": weight(2), **{name: value.astype("f") for name, value in scalars.items()}}
    assert lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants).count("Transpose") == 2


@pytest.mark.parametrize(
    "dims", [("b", "s", N), ("b", N), (1, N), (3, N), (1, 1, N), (1, 40, N), ("b", 7, N), (2, "s", N)]
)
def test_residual_sums(tmp_path: Path, dims: tuple[Any, ...]) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w1", "a"),
        ("Add", "a x", "h"),
        ("MatMul", "h w2", "b"),
        ("Add", "h b", "k"),
        ("Sub", "a b", "d"),
        ("Mul", "k d", "y"),
    ]
    lowered(tmp_path, nodes, {"y": dims}, {"w1": weight(1), "w2": weight(2)}, dims)


def test_residual_sums_before_a_normalization(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w1", "a"),
        ("Add", "a x", "h"),
        ("LayerNormalization", "h g c", "n"),
        ("MatMul", "n w2", "b"),
        ("Relu", "b", "r"),
        ("MatMul", "r w3", "d"),
        ("Add", "n d", "k"),
        ("LayerNormalization", "k g c", "y"),
    ]
    rng = np.random.default_rng(0)
    constants = {f"w{i}": weight(i) for i in (1, 2, 3)}
    constants |= {name: rng.standard_normal(N).astype("f") for name in "gc"}
    found = lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)
    assert found.count("LayerNormalization") == 2
    assert found.count("Transpose") <= 5


def operands() -> dict[str, tuple[list[Any], np.ndarray]]:
    """What can meet ``h [b, s, 48]`` in an element-wise operator, as constants of all shapes."""
    rng = np.random.default_rng(0)
    shapes = {
        "a vector": [N],
        "a row": [1, N],
        "a plane": [1, 1, N],
        "a scalar": [],
        "a one": [1],
        "many ones": [1, 1, 1],
        "a column": [5, 1],
        "a column of rows": [5, N],
        "a batch": [2, 1, 1],
        "a batch of vectors": [2, 1, N],
        "a batch of columns": [2, 5, 1],
        "everything": [2, 5, N],
        "more axes": [3, 1, 1, N],
        "four ones": [1, 1, 1, 1],
    }  # fmt: skip
    return {name: (shape, rng.standard_normal(shape).astype("f")) for name, shape in shapes.items()}


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("name", list(operands()))
@pytest.mark.parametrize("first", [True, False])
def test_operands_of_every_shape(tmp_path: Path, op: str, name: str, first: bool) -> None:
    shape, value = operands()[name]
    rank = max(3, len(shape))
    nodes: list[Node] = [("MatMul", "x w1", "h"), (op, "k h" if first else "h k", "p"), ("MatMul", "p w2", "y")]
    out = {"y": [None] * (rank - 1) + [N]}
    lowered(tmp_path, nodes, out, {"w1": weight(1), "w2": weight(2), "k": value})


def test_three_operands_and_bounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("MatMul", "x w2", "k"),
        ("Max", "h k v", "a"),
        ("Min", "a x one", "b"),
        ("Clip", "b low", "d"),
        ("Clip", "d  high", "e"),
        ("Pow", "e two", "f"),
        ("MatMul", "f w3", "y"),
    ]
    nodes[5] = ("Clip", "d low high", "e")
    constants = {f"w{i}": weight(i) for i in (1, 2, 3)}
    constants |= {"v": rng.standard_normal(N).astype("f"), "one": np.float32(1) * np.ones(1, "f")}
    constants |= {"low": np.array(-0.5, "f"), "high": np.array(0.7, "f"), "two": np.array(2, "f")}
    lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)


def test_a_computed_vector_is_turned_with_the_features(tmp_path: Path) -> None:
    """``[1, 48]`` that is no constant: a product's own output, or a mean over rows."""
    nodes: list[Node] = [
        ("ReduceMean", "x axes", "mean", {"keepdims": 1}),
        ("MatMul", "mean w1", "v"),
        ("MatMul", "x w2", "h"),
        ("Add", "h mean", "a"),
        ("Mul", "a v", "y"),
    ]
    constants = {"w1": weight(1), "w2": weight(2), "axes": np.array([0])}
    lowered(tmp_path, nodes, {"y": ["b", N]}, constants, ("b", N), (4,))


def test_a_computed_scalar(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("ReduceMean", "x axes", "mean", {"keepdims": 1}),
        ("MatMul", "mean w1", "one"),
        ("MatMul", "x w2", "h"),
        ("Mul", "h one", "y"),
    ]
    narrow = weight(1)[:, :1].copy()
    narrow[:24] = 0
    constants = {"w1": narrow, "w2": weight(2), "axes": np.array([0])}
    lowered(tmp_path, nodes, {"y": ["b", N]}, constants, ("b", N), (4,))


def test_outputs_in_the_middle_keep_their_names(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("Relu", "h", "r"),
        ("MatMul", "r w2", "k"),
        ("Transpose", "k", "t", {"perm": [0, 2, 1]}),
        ("Shape", "k", "size"),
        ("Add", "k h", "y"),
    ]
    out = {"h": ["b", "s", N], "y": ["b", "s", N], "r": ["b", "s", N], "t": ["b", N, "s"], "size": [3]}
    lowered(tmp_path, nodes, out, {"w1": weight(1), "w2": weight(2)}, size=TensorProto.INT64)
    assert [value.name for value in onnx.load(tmp_path / "sparse.onnx").graph.output] == list(out)


CHAIN = {
    "unary": lambda i: [("Sigmoid", f"v{i}", f"v{i + 1}")],
    "product": lambda i: [("MatMul", f"v{i} w{i % 3}", f"v{i + 1}")],
    "vector": lambda i: [("Add", f"v{i} c", f"v{i + 1}")],
    "residual": lambda i: [("Add", f"v{i} x", f"v{i + 1}")],
    "earlier": lambda i: [("Mul", f"v{i} v{i // 2}", f"v{i + 1}")],
    "softmax": lambda i: [("Softmax", f"v{i}", f"v{i + 1}", {"axis": -1})],
    "there and back": lambda i: [
        ("Transpose", f"v{i}", f"t{i}", {"perm": [0, 2, 1]}),
        ("Tanh", f"t{i}", f"u{i}"),
        ("Transpose", f"u{i}", f"v{i + 1}", {"perm": [0, 2, 1]}),
    ],
}


@many
@given(
    st.lists(st.sampled_from(sorted(CHAIN)), min_size=1, max_size=7),
    st.sets(st.integers(0, 6), max_size=3),
    st.sampled_from([("b", "s", N), (1, "s", N), ("b", 5, N), (1, 1, N), (1, 40, N)]),
    st.sampled_from([0.4, 0.8, 0.97]),
)
def test_any_chain_of_them(
    tmp_path_factory: Any, steps: list[str], shown: set[int], dims: tuple[Any, ...], zero: float
) -> None:
    """Products and what lies between them in any order, any values in the middle handed out too."""
    nodes: list[Node] = [("MatMul", "x w0", "v0")]
    for i, step in enumerate(steps):
        nodes += CHAIN[step](i)
    names = sorted({len(steps), *(i for i in shown if i <= len(steps))})
    constants = {f"w{i}": weight(i, zero=zero) for i in range(3)}
    constants["c"] = np.random.default_rng(0).standard_normal(N).astype("f")
    used = {name for node in nodes for name in node[1].split()}
    lowered(
        tmp_path_factory.mktemp("chain"),
        nodes,
        {f"v{i}": dims for i in names},
        {name: value for name, value in constants.items() if name in used},
        dims,
    )
