"""Products of the surviving blocks only: values and gradients against float64 autograd of ``torch.kron``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import DTYPES, assert_every_derivative, assert_near, dense, random_factors, random_input
from torch import Tensor, nn

from kronfx.layers import KroneckerLinear
from kronfx.layers import linear as planned_layer
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape

Dims = tuple[int, int, int, int]
EXACT = {"atol": 1e-10, "rtol": 1e-10}  # sums of a few thousand products of order 1 in float64
SMALL: Dims = (3, 4, 2, 5)
SIZES = st.integers(1, 7) | st.sampled_from((11, 16))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Evaluation]:
    """The planned evaluations that ran."""
    ran: list[Evaluation] = []
    evaluated, formed = planned_layer.evaluated, planned_layer.formed

    def noted(x, factors, grid, rank, evaluation, *more):  # type: ignore[no-untyped-def]
        ran.append(evaluation)
        return evaluated(x, factors, grid, rank, evaluation, *more)

    def noted_formed(x, factors, bias=None):  # type: ignore[no-untyped-def]
        ran.append("materialize")
        return formed(x, factors, bias)

    monkeypatch.setattr(planned_layer, "evaluated", noted)
    monkeypatch.setattr(planned_layer, "formed", noted_formed)
    return ran


def layer_of(
    dims: Dims = SMALL, rank: int = 2, evaluation: Evaluation = "a_first", cut: tuple[int, int] = (0, 0), seed: int = 0,
    zeros: float = 0.5, dtype: torch.dtype = torch.float64, bias: bool = True,
) -> KroneckerLinear:  # fmt: skip
    """A layer with random factors that multiplies its survivors only, ``cut`` rows and columns of ``W`` sliced off."""
    shape = KroneckerShape(*dims)
    features = (shape.m - cut[0], shape.n - cut[1]) if any(cut) else None
    layer = KroneckerLinear(shape, rank, evaluation, bias, dtype=dtype, features=features)
    drawn = random_factors(dims, rank, dtype, seed, zeros)
    for parameter, value in zip((layer.S, layer.A, layer.B), (drawn.S, drawn.A, drawn.B)):
        parameter.data.copy_(value)
    layer.skip_zeros()
    return layer


def oracle(x: Tensor, layer: KroneckerLinear) -> Tensor:
    W = dense(layer.S, layer.A, layer.B)[: layer.out_features, : layer.in_features]
    return F.linear(x, W, layer.bias)


@settings(max_examples=100, deadline=None)
@given(
    dims=st.tuples(SIZES, SIZES, SIZES, SIZES),
    rank=st.integers(1, 4),
    cut=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    leading=st.sampled_from(((), (1,), (5,), (0,), (2, 3), (2, 0, 3))),
    zeros=st.sampled_from((0.0, 0.5, 0.95, 1.0)),
    arranged=st.sampled_from(("plain", "strided", "broadcast", "turned")),
    bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_gradients_are_those_of_torch_kron(
    dims: Dims, rank: int, cut: tuple[int, int], leading: tuple[int, ...], zeros: float, arranged: str, bias: bool,
    seed: int,
) -> None:  # fmt: skip
    cut = min(cut[0], dims[2] - 1), min(cut[1], dims[3] - 1)
    layer = layer_of(dims, rank, cut=cut, seed=seed, zeros=zeros, bias=bias)
    n, m = layer.in_features, layer.out_features
    x = random_input((n, *leading) if arranged == "turned" else (*leading, 2 * n), 1, seed=seed).squeeze(-1)
    x.requires_grad_()
    shown = {
        "plain": lambda: x[..., :n].contiguous(),
        "strided": lambda: x[..., ::2],
        "broadcast": lambda: x[..., :1].expand(*leading, n),
        "turned": lambda: x.movedim(0, -1),
    }[arranged]()
    dy = random_input(leading, m, seed=seed + 1)
    dy = dy[..., :1].expand_as(dy) if arranged == "broadcast" else dy
    wanted = [x, layer.S, layer.A, layer.B, *([] if layer.bias is None else [layer.bias])]

    y, truth = layer(shown), oracle(shown, layer)
    assert layer.running.startswith("blocks")
    torch.testing.assert_close(y, truth, **EXACT)
    found, right = (torch.autograd.grad(out, wanted, dy) for out in (y, truth))
    torch.testing.assert_close(found[1], right[1] * (layer.S != 0), **EXACT)  # zeros of S stay
    for ours, theirs in zip(found[:1] + found[2:], right[:1] + right[2:]):
        torch.testing.assert_close(ours, theirs, **EXACT)


@settings(deadline=None)
@given(st.sampled_from(DTYPES), st.integers(1, 3), st.sampled_from((0.0, 0.6, 1.0)), st.integers(0, 99))
def test_every_dtype_is_as_near_as_it_can_be(dtype: torch.dtype, rank: int, zeros: float, seed: int) -> None:
    layer = layer_of((4, 3, 8, 5), rank, seed=seed, zeros=zeros, dtype=dtype)
    x = random_input((6,), 15, dtype)
    W, b = dense(layer.S.double(), layer.A.double(), layer.B.double()), layer.bias.double()
    magnitude = dense(*(factor.detach().double().abs() for factor in (layer.S, layer.A, layer.B)))
    y = layer(x)
    assert y.dtype == dtype
    size = F.linear(x.double().abs(), magnitude, b.abs())
    assert_near(y.detach(), F.linear(x.double(), W, b).detach(), size.detach(), dtype, 15 + rank)


@pytest.mark.parametrize("frozen", ["SAB", "S", "x", "xSA"])
def test_only_what_trains_gets_a_gradient(frozen: str) -> None:
    layer, x = layer_of(), random_input((4,), 20).requires_grad_("x" not in frozen)
    tensors = {"x": x, "S": layer.S, "A": layer.A, "B": layer.B}
    for name in frozen.replace("x", ""):
        tensors[name].requires_grad_(False)
    layer(x).sum().backward()
    assert {name for name, tensor in tensors.items() if tensor.grad is None} == set(frozen)


def test_derivatives_of_every_kind() -> None:
    """Twice, forward, under transforms; where no entry of ``S`` is zero all evaluations have the same."""
    layer, x = layer_of((2, 3, 2, 2), 1, zeros=0.0), random_input((2,), 6).requires_grad_()

    def call(x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"S": S, "A": A, "B": B}, x)  # type: ignore[no-any-return]

    primals = (x, layer.S, layer.A, layer.B)
    assert_every_derivative(call, primals)
    each = torch.func.vmap(torch.func.grad(lambda x: call(x, *primals[1:]).square().sum()))(x)
    torch.testing.assert_close(each, torch.autograd.grad(call(*primals).square().sum(), x)[0], **EXACT)
    ensemble = torch.func.vmap(lambda S: call(x, S, *primals[2:]))(torch.stack([layer.S, 2 * layer.S]))
    torch.testing.assert_close(ensemble[1] - layer.bias, 2 * (ensemble[0] - layer.bias), **EXACT)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_compiled_exported_and_traced_the_planned_evaluation_runs(
    evaluation: Evaluation, planned: list[Evaluation]
) -> None:
    layer, x = layer_of(evaluation=evaluation).requires_grad_(False), random_input((4,), 20)
    y = layer(x)
    assert planned == []
    torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), y, **EXACT)
    graph = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(graph(x), y, **EXACT)
    torch.testing.assert_close(torch.jit.trace(layer, x)(x), y, **EXACT)
    assert planned
    assert set(planned) == {evaluation}


def test_other_peoples_tensors_get_the_planned_evaluation(planned: list[Evaluation]) -> None:
    layer = layer_of(evaluation="b_first", bias=False)
    rows = [random_input((2,), 20), random_input((3,), 20, seed=2)]
    nested = layer(torch.nested.nested_tensor(rows))
    for found, x in zip(nested.unbind(), rows):
        torch.testing.assert_close(found, oracle(x, layer), **EXACT)
    assert planned
    assert layer.to("meta")(torch.empty(3, 20, device="meta", dtype=torch.float64)).is_meta


def test_autocast_computes_in_its_dtype() -> None:
    layer, x = layer_of(dtype=torch.float32), random_input((4,), 20, torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert layer.running.startswith("blocks")
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert {tensor.grad.dtype for tensor in (x, *layer.parameters())} == {torch.float32}
    half = layer_of(dtype=torch.bfloat16)
    half.load_state_dict(layer.state_dict())
    torch.testing.assert_close(y, half(x.bfloat16()), atol=0.1, rtol=0.05)


def steps_of(layer: nn.Module, x: Tensor, wanted: Tensor, mask: Tensor) -> list[Tensor]:
    """Twenty steps of Adam, the zeros of ``S`` kept."""
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.mse_loss(layer(x), wanted).backward()
        optimizer.step()
        layer.S.data.mul_(mask)
    return [parameter.detach() for parameter in layer.parameters()]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_training_is_the_same_to_rounding(evaluation: Evaluation) -> None:
    skipping, other = layer_of(evaluation=evaluation), layer_of(evaluation=evaluation)
    other.load_state_dict(skipping.state_dict())
    other.skipping = None
    x, wanted, mask = random_input((8,), 20), random_input((8,), 6, seed=2), skipping.S.detach() != 0
    pairs = zip(steps_of(skipping, x, wanted, mask), steps_of(other, x, wanted, mask))
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)  # Adam divides by gradients that may be small


CHANGES: dict[str, Callable[[KroneckerLinear], object]] = {
    "a zero comes back": lambda layer: layer.S.data.masked_fill_(layer.S == 0, 1.5),
    "another goes": lambda layer: layer.S.data[1].zero_(),
    "all go": lambda layer: layer.S.data.zero_(),
    "another state": lambda layer: layer.load_state_dict(layer_of(seed=7).state_dict()),
    "another tensor": lambda layer: setattr(layer, "S", nn.Parameter(torch.ones_like(layer.S))),
    "another sign": lambda layer: layer.S.data.neg_(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("forced", [True, False])
def test_other_zeros_are_seen(change: Callable[[KroneckerLinear], object], forced: bool) -> None:
    layer, x = layer_of(), random_input((3,), 20)
    layer.skip_zeros(forced)
    torch.testing.assert_close(layer(x), oracle(x, layer), **EXACT)
    change(layer)
    torch.testing.assert_close(layer(x), oracle(x, layer), **EXACT)
