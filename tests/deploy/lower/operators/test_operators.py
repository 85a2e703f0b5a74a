"""Layouts: what lies between lowered products stays right, and no transpose is there that need not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_files import N, axes, lowered, normal, weight

many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
SEQUENCES = "float[b, s, 48] y"


def test_q_k_and_v_share_one_transpose(tmp_path: Path) -> None:
    out = ", ".join(f"float[b, s, 48] {name}" for name in "qkv")
    weights = {f"w{name}": weight(i) for i, name in enumerate("qkv")}
    _, found = lowered(tmp_path, out, *(f"{name} = MatMul(x, w{name})" for name in "qkv"), **weights)
    assert found.count("Transpose") == 1 + 3  # one in, one a result


@pytest.mark.parametrize("activation", ["Relu", "Gelu", "Tanh", "Sigmoid", "Exp", "HardSwish", "Identity"])
@pytest.mark.parametrize("zero", [0.6, 0.95])
def test_nothing_is_transposed_between_two_layers(tmp_path: Path, activation: str, zero: float) -> None:
    """With 95% of the blocks zero whole rows are missing: what is not computed has to be f(0 + bias) all the same."""
    nodes = f"""
        a = MatMul(x, w1)
        h = Add(c1, a)
        r = {activation}(h)
        b = MatMul(r, w2)
        y = Add(b, c2)
    """
    weights = {"w1": weight(1, 96, N, zero), "w2": weight(2, N, 96, zero), "c1": normal(96), "c2": normal(N, seed=1)}
    assert lowered(tmp_path, SEQUENCES, nodes, **weights)[1].count("Transpose") == 2


@pytest.mark.parametrize("activation", ["Exp", "Sigmoid", "Relu"])
def test_rows_that_are_not_there_have_values_too(tmp_path: Path, activation: str) -> None:
    """Without a bias a missing row is f(0), which need not be zero."""
    first = f"""
        h = MatMul(x, w1)
        r = {activation}(h)
    """
    weights = {"w1": weight(1, 96, N, 0.97), "w2": weight(2, N, 96)}
    lowered(tmp_path, SEQUENCES, first, "y = MatMul(r, w2)", **weights)
    lowered(tmp_path, "float[b, s, 96] r", first, **weights)


def test_a_decomposed_gelu(tmp_path: Path) -> None:
    nodes = """
        h = MatMul(x, w1)
        d = Div(h, root)
        e = Erf(d)
        p = Add(e, one)
        hp = Mul(h, p)
        g = Mul(half, hp)
        y = MatMul(g, w2)
    """
    scalars = {"root": np.array(2**0.5, "f"), "one": np.ones(1, "f"), "half": np.full((1, 1, 1), 0.5, "f")}
    _, found = lowered(tmp_path, SEQUENCES, nodes, w1=weight(1), w2=weight(2), **scalars)
    assert found.count("Transpose") == 2


@pytest.mark.parametrize(
    "dims", ["b, s, 48", "b, 48", "1, 48", "3, 48", "1, 1, 48", "1, 40, 48", "b, 7, 48", "2, s, 48"]
)
def test_residual_sums(tmp_path: Path, dims: str) -> None:
    nodes = """
        a = MatMul(x, w1)
        h = Add(a, x)
        b = MatMul(h, w2)
        k = Add(h, b)
        d = Sub(a, b)
        y = Mul(k, d)
    """
    lowered(tmp_path, f"float[{dims}] y", nodes, dims=dims, w1=weight(1), w2=weight(2))


def test_residual_sums_before_a_normalization(tmp_path: Path) -> None:
    nodes = """
        a = MatMul(x, w1)
        h = Add(a, x)
        n = LayerNormalization(h, g, c)
        b = MatMul(n, w2)
        r = Relu(b)
        d = MatMul(r, w3)
        k = Add(n, d)
        y = LayerNormalization(k, g, c)
    """
    weights = {"w1": weight(1), "w2": weight(2), "w3": weight(3), "g": normal(N), "c": normal(N, seed=1)}
    _, found = lowered(tmp_path, SEQUENCES, nodes, **weights)
    assert found.count("LayerNormalization") == 2
    assert found.count("Transpose") <= 5


OPERANDS = {
    "a vector": (N,),
    "a row": (1, N),
    "a plane": (1, 1, N),
    "a scalar": (),
    "a one": (1,),
    "many ones": (1, 1, 1),
    "a column": (5, 1),
    "a column of rows": (5, N),
    "a batch": (2, 1, 1),
    "a batch of vectors": (2, 1, N),
    "a batch of columns": (2, 5, 1),
    "everything": (2, 5, N),
    "more axes": (3, 1, 1, N),
    "four ones": (1, 1, 1, 1),
}


@pytest.mark.parametrize("op", ["Add", "Mul"])
@pytest.mark.parametrize("name", OPERANDS)
@pytest.mark.parametrize("first", [True, False])
def test_operands_of_every_shape(tmp_path: Path, op: str, name: str, first: bool) -> None:
    """What can meet ``h [b, s, 48]`` in an element-wise operator, as constants of all shapes."""
    shape = OPERANDS[name]
    nodes = f"""
        h = MatMul(x, w1)
        p = {op}({"k, h" if first else "h, k"})
        y = MatMul(p, w2)
    """
    out = f"float[{axes(*[None] * (max(3, len(shape)) - 1), N)}] y"
    lowered(tmp_path, out, nodes, w1=weight(1), w2=weight(2), k=np.asarray(normal(*shape)))


def test_three_operands_and_bounds(tmp_path: Path) -> None:
    nodes = """
        h = MatMul(x, w1)
        k = MatMul(x, w2)
        a = Max(h, k, v)
        b = Min(a, x, one)
        d = Clip(b, low)
        e = Clip(d, low, high)
        f = Pow(e, two)
        y = MatMul(f, w3)
    """
    bounds = {"low": np.array(-0.5, "f"), "high": np.array(0.7, "f"), "one": np.ones(1, "f"), "two": np.array(2, "f")}
    lowered(tmp_path, SEQUENCES, nodes, w1=weight(1), w2=weight(2), w3=weight(3), v=normal(N), **bounds)


def test_a_computed_vector_is_turned_with_the_features(tmp_path: Path) -> None:
    """``[1, 48]`` that is no constant: a product's own output, or a mean over rows."""
    nodes = """
        mean = ReduceMean<keepdims = 1>(x, first)
        v = MatMul(mean, w1)
        h = MatMul(x, w2)
        a = Add(h, mean)
        y = Mul(a, v)
    """
    lowered(tmp_path, "float[b, 48] y", nodes, dims="b, 48", w1=weight(1), w2=weight(2), first=np.array([0]))


def test_a_computed_scalar(tmp_path: Path) -> None:
    nodes = """
        mean = ReduceMean<keepdims = 1>(x, first)
        one = MatMul(mean, w1)
        h = MatMul(x, w2)
        y = Mul(h, one)
    """
    narrow = weight(1)[:, :1].copy()
    narrow[:24] = 0
    lowered(tmp_path, "float[b, 48] y", nodes, dims="b, 48", w1=narrow, w2=weight(2), first=np.array([0]))


def test_outputs_in_the_middle_keep_their_names(tmp_path: Path) -> None:
    nodes = """
        h = MatMul(x, w1)
        r = Relu(h)
        k = MatMul(r, w2)
        t = Transpose<perm = [0, 2, 1]>(k)
        size = Shape(k)
        y = Add(k, h)
    """
    out = "float[b, s, 48] h, float[b, s, 48] y, float[b, s, 48] r, float[b, 48, s] t, int64[3] size"
    dst, _ = lowered(tmp_path, out, nodes, w1=weight(1), w2=weight(2))
    assert [value.name for value in onnx.load(dst).graph.output] == ["h", "y", "r", "t", "size"]


CHAIN = {
    "unary": "v{next} = Sigmoid(v{i})",
    "product": "v{next} = MatMul(v{i}, w{weight})",
    "vector": "v{next} = Add(v{i}, c)",
    "residual": "v{next} = Add(v{i}, x)",
    "earlier": "v{next} = Mul(v{i}, v{half})",
    "softmax": "v{next} = Softmax<axis = -1>(v{i})",
    "there and back": """
        t{i} = Transpose<perm = [0, 2, 1]>(v{i})
        u{i} = Tanh(t{i})
        v{next} = Transpose<perm = [0, 2, 1]>(u{i})
    """,
}


@many
@given(
    st.lists(st.sampled_from(sorted(CHAIN)), min_size=1, max_size=7),
    st.sets(st.integers(0, 6), max_size=3),
    st.sampled_from(["b, s, 48", "1, s, 48", "b, 5, 48", "1, 1, 48", "1, 40, 48"]),
    st.sampled_from([0.4, 0.8, 0.97]),
)
def test_any_chain_of_them(tmp_path_factory: Any, steps: list[str], shown: set[int], dims: str, zero: float) -> None:
    """Products and what lies between them in any order, any values in the middle handed out too."""
    nodes = [CHAIN[step].format(i=i, next=i + 1, half=i // 2, weight=i % 3) for i, step in enumerate(steps)]
    out = ", ".join(f"float[{dims}] v{i}" for i in sorted({len(steps), *(i for i in shown if i <= len(steps))}))
    weights = {f"w{i}": weight(i, zero=zero) for i in range(3)}
    folder = tmp_path_factory.mktemp("chain")
    lowered(folder, out, "v0 = MatMul(x, w0)", *nodes, dims=dims, c=normal(N), **weights)
