"""Layouts: what lies between lowered products stays right, and no transpose is there that need not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx_files import Node, answers, assert_same, assert_same_file, evaluated, onnx_file, ops, planted, sparse

N = 48
many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
FLOAT32 = 1e-5  # chains of products of numbers near 1


def weight(seed: int, m: int = N, n: int = N, zero: float = 0.6) -> np.ndarray:
    """``W^T [n, m]``, as MatMul reads it; every row of blocks has its own number of them, some have none."""
    return planted(m, n, (8, 8), zero, seed).T


def lowered(
    folder: Path,
    nodes: list[Node],
    outputs: dict[str, Any],
    constants: dict[str, np.ndarray],
    dims: tuple[Any, ...] = ("b", "s", N),
    sizes: tuple[int, ...] = (2, 5),
    opset: int = 20,
    **types: int,
) -> list[str]:
    """The operators of the lowered file, once it has been found to compute in both runtimes what the source does."""
    src = onnx_file(folder / "m.onnx", nodes, {"x": dims}, outputs, constants, types, opset)
    dst, report = sparse(src)
    assert "blocks" in {layer.lowering for layer in report.layers}
    assert_same_file(src, dst, dims, sizes, FLOAT32)
    return ops(dst)


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


def test_one_value_turned_twice_is_two_outputs(tmp_path: Path) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h"), *(("Transpose", "h", t, {"perm": [0, 2, 1]}) for t in "pq")]
    lowered(tmp_path, nodes, {t: ["b", N, "s"] for t in "pq"}, {"w": weight(1)})
    assert [value.name for value in onnx.load(tmp_path / "sparse.onnx").graph.output] == ["p", "q"]


@pytest.mark.parametrize("perm", [[0, 2, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
def test_transposes(tmp_path: Path, perm: list[int]) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h"), ("Transpose", "h", "y", {"perm": perm})]
    dims = ["b", "s", N]
    found = lowered(tmp_path, nodes, {"y": [dims[i] for i in perm]}, {"w": weight(1)})
    assert found.count("Transpose") <= (1 if perm == [0, 2, 1] else 3)


@pytest.mark.parametrize("axis", [-1, 2])
@pytest.mark.parametrize("sizes", [(16, 16, 16), (8, 24, 16), (5, 20, 23)])
def test_a_packed_projection_is_split(tmp_path: Path, sizes: tuple[int, int, int], axis: int) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w", "h"),
        ("Split", "h parts", "q k v", {"axis": axis}),
        ("Relu", "q", "a"),
        ("Sigmoid", "k", "b"),
    ]
    out = {name: ["b", "s", size] for name, size in zip("abv", sizes, strict=True)}
    found = lowered(tmp_path, nodes, out, {"w": weight(1), "parts": np.array(sizes)})
    assert found.count("Transpose") == 1 + 3


@pytest.mark.parametrize("axis", [0, 1])
def test_a_split_of_other_axes(tmp_path: Path, axis: int) -> None:
    nodes: list[Node] = [("MatMul", "x w", "h"), ("Split", "h", "p q", {"axis": axis, "num_outputs": 2})]
    out = {name: [2 if axis else 1, 5, N] for name in "pq"}
    out = {name: [2, 2, N] if axis else [1, 4, N] for name in "pq"}
    lowered(tmp_path, nodes, out, {"w": weight(1)}, (2, 4, N), ())


def attention(keys: str) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Three heads of 16 over ``x [b, s, 48]``; the keys turned in one step, or the way exporters do it."""
    constants = {f"w{i}": weight(i) for i in range(4)}
    constants |= {"cut": np.array([0, 0, 3, 16]), "merge": np.array([0, 0, N]), "root": np.array(4, "f")}
    constants |= {"flat": np.array([-1, 5, 16]), "back": np.array([2, 3, 16, 5])}
    nodes: list[Node] = [("MatMul", f"x w{i}", name) for i, name in enumerate("qkv")]
    nodes += [("Reshape", f"{name} cut", f"{name}4") for name in "qkv"]
    nodes += [("Transpose", f"{name}4", f"{name}h", {"perm": [0, 2, 1, 3]}) for name in "qv"]
    if keys == "at once":
        nodes += [("Transpose", "k4", "kt", {"perm": [0, 2, 3, 1]})]
    else:
        nodes += [
            ("Transpose", "k4", "kh", {"perm": [0, 2, 1, 3]}),
            ("Reshape", "kh flat", "k3"),
            ("Transpose", "k3", "k3t", {"perm": [0, 2, 1]}),
            ("Reshape", "k3t back", "kt"),
        ]
    nodes += [
        ("MatMul", "qh kt", "scores"),
        ("Div", "scores root", "scaled"),
        ("Softmax", "scaled", "p", {"axis": -1}),
        ("MatMul", "p vh", "o"),
        ("Transpose", "o", "ot", {"perm": [0, 2, 1, 3]}),
        ("Reshape", "ot merge", "om"),
        ("MatMul", "om w3", "y"),
    ]
    return nodes, constants


@pytest.mark.parametrize("keys", ["at once", "step by step"])
@pytest.mark.parametrize("dims", [("b", "s", N), (2, 5, N), (2, 40, N)])
def test_heads_of_attention(tmp_path: Path, dims: tuple[Any, ...], keys: str) -> None:
    nodes, constants = attention(keys)
    length = 40 if dims[1] == 40 else 5
    constants |= {"flat": np.array([-1, length, 16]), "back": np.array([2, 3, 16, length])}
    used = {name for node in nodes for name in node[1].split()}
    found = lowered(tmp_path, nodes, {"y": dims}, {k: v for k, v in constants.items() if k in used}, dims)
    plain = sum(node[0] == "Transpose" for node in nodes)
    if dims[1] != 5:  # all rows of short sequences of a fixed length go into one product
        assert found.count("Transpose") <= plain + 2


def test_a_reshape_that_mixes_rows_is_not_taken_for_heads(tmp_path: Path) -> None:
    """``[b, s, 48] -> [s, b, 3, 16]``: the axes have the right lengths and the wrong meaning."""
    nodes: list[Node] = [
        ("MatMul", "x w", "h"),
        ("Shape", "x", "size"),
        ("Gather", "size order", "swapped"),
        ("Concat", "swapped heads", "target", {"axis": 0}),
        ("Reshape", "h target", "r"),
        ("Transpose", "r", "y", {"perm": [0, 2, 1, 3]}),
    ]
    constants = {"w": weight(1), "order": np.array([1, 0]), "heads": np.array([3, 16])}
    lowered(tmp_path, nodes, {"y": [None, 3, None, 16]}, constants)
    lowered(tmp_path, nodes, {"y": [None, 3, None, 16]}, constants, (None, None, N))


def body(name: str, op: str, *values: str) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node(op, list(values), [f"{name}_y"])], name, [], [out])


def test_bodies_of_if_read_what_was_turned(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("ReduceSum", "x", "sum", {"keepdims": 0}),
        ("Less", "zero sum", "positive"),
        ("If", "positive", "k", {"then_branch": body("t", "Sigmoid", "h"), "else_branch": body("e", "Neg", "h")}),
        ("Add", "k h", "p"),
        ("MatMul", "p w2", "y"),
    ]
    constants = {"w1": weight(1), "w2": weight(2), "zero": np.array(0, "f")}
    lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)
    constants["zero"] = np.array(1e9, "f")
    lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)


def test_bodies_of_loop_read_what_was_turned(tmp_path: Path) -> None:
    """``k`` three times ``h`` and a weight of the body's own, which stays as it is."""
    scalar = [helper.make_tensor_value_info(n, k, []) for n, k in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))]
    state, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("k_in", "k_out"))
    made = [
        helper.make_node("Add", ["k_in", "h"], ["sum"]),
        helper.make_node("MatMul", ["sum", "inner"], ["k_out"]),
        helper.make_node("Identity", ["go"], ["go_on"]),
    ]
    done = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    inner = onnx.numpy_helper.from_array(np.ascontiguousarray(weight(3)), "inner")
    loop = helper.make_graph(made, "loop", [*scalar, state], [done, out], [inner])
    nodes: list[Node] = [
        ("MatMul", "x w1", "h"),
        ("Loop", "times true h", "k", {"body": loop}),
        ("MatMul", "k w2", "y"),
    ]
    constants = {"w1": weight(1), "w2": weight(2), "times": np.array(3), "true": np.array(True)}
    assert "Loop" in lowered(tmp_path, nodes, {"y": ["b", "s", N]}, constants)


def test_functions_of_other_domains_get_rows(tmp_path: Path) -> None:
    """An operator that only shares its name with one of the table's is not known to work element by element."""
    W, x = weight(1), np.random.default_rng(0).standard_normal((2, 5, N)).astype("f")
    src = onnx_file(
        tmp_path / "m.onnx",
        [("MatMul", "x w", "h"), ("Relu", "h", "y")],
        {"x": ["b", "s", N]},
        {"y": ["b", "s", N]},
        {"w": W},
    )
    model = onnx.load(src)
    inner = [helper.make_node("Softmax", ["a"], ["b"], axis=-1)]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model.functions.append(helper.make_function("mine", "Relu", ["a"], ["b"], inner, opsets[:1]))
    model.graph.node[1].domain = "mine"
    model.opset_import.append(opsets[1])
    onnx.save(model, src)
    dst, report = sparse(src)
    assert [layer.lowering for layer in report.layers] == ["blocks"]
    (wanted,) = evaluated(src, x=x)
    assert_same(answers(dst, x=x)[0], wanted, FLOAT32)


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
