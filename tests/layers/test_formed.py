"""Every evaluation's gradients against float64 autograd of ``torch.kron``; forming ``W`` in pieces among them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import assert_every_derivative, dense, random_factors, random_input
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kronfx import cost
from kronfx.layers import KroneckerLinear, formed, portions
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape

Dims = tuple[int, int, int, int]
EXACT = {"atol": 1e-10, "rtol": 1e-10}  # sums of a few thousand products of order 1 in float64
SMALL: Dims = (3, 4, 2, 5)


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """Pieces of one or two rows of blocks, portions of few rows of ``x``, for layers of any size."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LARGE": 0, "PIECE": 64, "LEAST": 1, "WIDE": 4}.items():
            patch.setattr(formed, name, value)
        patch.setattr(portions, "PORTION", 64)
        patch.setattr(portions, "LEAST", 2)
        yield


def layer_of(
    dims: Dims, rank: int, evaluation: Evaluation, cut: tuple[int, int] = (0, 0), seed: int = 0, zeros: float = 0.3
) -> KroneckerLinear:
    """A float64 layer with random factors, ``cut`` rows and columns of ``W`` sliced off."""
    shape = KroneckerShape(*dims)
    features = (shape.m - cut[0], shape.n - cut[1]) if any(cut) else None
    layer = KroneckerLinear(shape, rank, evaluation, dtype=torch.float64, features=features)
    drawn = random_factors(dims, rank, seed=seed, zeros=zeros)
    for parameter, value in zip((layer.S, layer.A, layer.B), (drawn.S, drawn.A, drawn.B)):
        parameter.data.copy_(value)
    return layer


def oracle(x: Tensor, layer: KroneckerLinear) -> Tensor:
    W = dense(layer.S, layer.A, layer.B)[: layer.out_features, : layer.in_features]
    return F.linear(x, W, layer.bias)


def gradients(y: Tensor, dy: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(y, wanted, dy))


evaluations = pytest.mark.parametrize("evaluation", EVALUATIONS)
SIZES = st.integers(1, 7) | st.sampled_from((11, 16))


@settings(max_examples=100, deadline=None)
@given(
    evaluation=st.sampled_from(EVALUATIONS),
    dims=st.tuples(SIZES, SIZES, SIZES, SIZES),
    rank=st.integers(1, 4),
    cut=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    leading=st.sampled_from(((), (1,), (5,), (0,), (2, 3), (2, 0, 3))),
    zeros=st.sampled_from((0.0, 0.5, 0.95, 1.0)),
    arranged=st.sampled_from(("plain", "strided", "broadcast")),
    portioned=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_are_those_of_torch_kron(
    evaluation: Evaluation, dims: Dims, rank: int, cut: tuple[int, int], leading: tuple[int, ...], zeros: float,
    arranged: str, portioned: bool, seed: int,
) -> None:  # fmt: skip
    cut = min(cut[0], dims[2] - 1), min(cut[1], dims[3] - 1)
    layer = layer_of(dims, rank, evaluation, cut, seed, zeros)
    n, m = layer.in_features, layer.out_features
    x = random_input(leading, n if arranged == "plain" else 2 * n, seed=seed).requires_grad_()
    shown = x if arranged == "plain" else x[..., ::2] if arranged == "strided" else x[..., :1].expand(*leading, n)
    dy = random_input(leading, m, seed=seed + 1)
    dy = dy[..., :1].expand_as(dy) if arranged == "broadcast" else dy
    wanted = [x, layer.S, layer.A, layer.B, layer.bias]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "KEPT", 0 if portioned else 2**40)
        y, truth = layer(shown), oracle(shown, layer)
    torch.testing.assert_close(y, truth, **EXACT)
    for found, right in zip(gradients(y, dy, wanted), gradients(truth, dy, wanted)):
        torch.testing.assert_close(found, right, **EXACT)


@evaluations
def test_gradients_of_nested_inputs(evaluation: Evaluation) -> None:
    layer = layer_of(SMALL, 2, evaluation)
    rows = [random_input((count,), 20, seed=count).requires_grad_() for count in (3, 1, 5)]
    wanted = [*rows, layer.S, layer.A, layer.B, layer.bias]
    nested = torch.cat(layer(torch.nested.as_nested_tensor(rows)).unbind())
    truth = oracle(torch.cat(rows), layer)
    torch.testing.assert_close(nested, truth, **EXACT)
    dy = random_input((9,), layer.out_features, seed=1)
    for found, right in zip(gradients(nested, dy, wanted), gradients(truth, dy, wanted)):
        torch.testing.assert_close(found, right, **EXACT)


def test_zero_blocks_are_exactly_zero() -> None:
    layer = layer_of((8, 6, 4, 5), 3, "materialize").requires_grad_(False)
    layer.bias.zero_()
    W = layer(torch.eye(30, dtype=torch.float64)).T
    blocks = W.reshape(8, 4, 6, 5).transpose(1, 2).ne(0).flatten(2).any(-1)
    assert torch.equal(blocks, layer.S != 0)


@evaluations
@pytest.mark.parametrize("frozen", ["SAB", "S", "x"])
def test_only_what_trains_gets_a_gradient(frozen: str, evaluation: Evaluation) -> None:
    layer = layer_of(SMALL, 2, evaluation)
    x = random_input((4,), 20).requires_grad_("x" not in frozen)
    tensors = {"x": x, "S": layer.S, "A": layer.A, "B": layer.B}
    for name in frozen:
        tensors[name].requires_grad_(False)
    layer(x).sum().backward()
    assert {name for name, tensor in tensors.items() if tensor.grad is None} == set(frozen)


@evaluations
def test_derivatives_of_every_kind(evaluation: Evaluation) -> None:
    """Twice, forward, under transforms."""
    layer, x = layer_of((2, 3, 2, 2), 1, evaluation), random_input((2,), 6).requires_grad_()

    def call(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
        given = {"S": S, "A": A, "B": B}
        return torch.func.functional_call(layer, given, x)  # type: ignore[no-any-return]

    primals = (x, layer.S, layer.A, layer.B)
    y = assert_every_derivative(call, primals)
    each = torch.func.vmap(torch.func.grad(lambda x: call(x, *primals[1:]).square().sum()))(x)
    torch.testing.assert_close(each, torch.autograd.grad(y.square().sum(), x)[0], **EXACT)


@evaluations
def test_compiled_exported_and_traced_it_is_plain_operations(evaluation: Evaluation) -> None:
    layer, x = layer_of(SMALL, 2, evaluation).requires_grad_(False), random_input((4,), 20)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), **EXACT)
    exported = torch.export.export(layer, (x,))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not any("out" in name.split(".")[-1] for name in called)
    assert ("aten.linear.default" if evaluation == "materialize" else "aten.matmul.default") in called
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), layer(x), **EXACT)


def test_autocast_and_half_types_keep_their_own_arithmetic() -> None:
    layer = layer_of(SMALL, 2, "materialize").float()
    x = random_input((4,), 20, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    halved = layer.to(torch.bfloat16)
    W = halved.factors.materialize()
    assert torch.equal(halved(x.bfloat16()), F.linear(x.bfloat16(), W, halved.bias))


class Largest(TorchDispatchMode):
    """The entries of the largest tensor that an operation makes."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.entries = max(self.entries, result.numel())
        return result


def test_a_large_weight_is_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LARGE": 2**22, "PIECE": 2**20, "LEAST": 256}.items():
        monkeypatch.setattr(formed, name, value)
    layer = nn.Sequential(KroneckerLinear(KroneckerShape(64, 64, 32, 32), 2, "materialize"))
    x = torch.randn(2, 2048, requires_grad=True)
    with Largest() as largest:
        layer(x).sum().backward()
    assert 0 < largest.entries <= 2**20 < 2**22  # W has 2**22


@evaluations
def test_many_biases_at_once(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "KEPT", 0)
    layer, x = layer_of(SMALL, 2, evaluation), random_input((4,), 20)
    biases = random_input((3,), layer.out_features, seed=1)

    def call(bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"bias": bias}, x)  # type: ignore[no-any-return]

    torch.testing.assert_close(torch.func.vmap(call)(biases), torch.stack([call(bias) for bias in biases]), **EXACT)
