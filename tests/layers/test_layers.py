"""The factored layer as a module: what ``nn.Linear`` answers, it answers."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from models import SHAPE, kronecker_layer
from oracles import assert_dense_output, dense, dense_weight, random_input
from torch import nn

from kronfx.layers import KroneckerLinear
from kronfx.records import EVALUATIONS, Evaluation

evaluations = pytest.mark.parametrize("evaluation", EVALUATIONS)


@evaluations
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_forward_is_the_dense_layer_of_the_same_weight(evaluation: Evaluation, bias: bool, dtype: torch.dtype) -> None:
    layer = kronecker_layer(evaluation, dtype, bias)
    x = random_input((2, 3), 8, dtype)
    assert_dense_output(layer, x, layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@evaluations
def test_to_converts_the_whole_layer(evaluation: Evaluation, dtype: torch.dtype) -> None:
    layer = kronecker_layer(evaluation).to(dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert layer.weight.dtype == dtype
    x = random_input((4,), 8, dtype)
    assert_dense_output(layer, x, layer(x))


def test_it_answers_what_a_linear_layer_answers() -> None:
    layer = kronecker_layer()
    linear = nn.Linear(8, 15, dtype=torch.float64)
    assert (layer.in_features, layer.out_features) == (linear.in_features, linear.out_features)
    weight = layer.weight
    assert (weight.shape, weight.dtype, weight.device) == (
        linear.weight.shape,
        linear.weight.dtype,
        linear.weight.device,
    )
    torch.testing.assert_close(weight.detach(), dense_weight(layer), rtol=1e-13, atol=1e-15)
    assert isinstance(layer.bias, nn.Parameter)
    assert kronecker_layer(bias=False).bias is None
    assert kronecker_layer(bias=False)(random_input((4,), 8)).shape == (4, 15)


def test_weight_is_differentiable_in_the_factors() -> None:
    layer = kronecker_layer()
    layer.weight.square().sum().backward()
    leaves = [f.detach().clone().requires_grad_() for f in (layer.S, layer.A, layer.B)]
    dense(*leaves).square().sum().backward()
    for parameter, leaf in zip((layer.S, layer.A, layer.B), leaves, strict=True):
        torch.testing.assert_close(parameter.grad, leaf.grad, rtol=1e-12, atol=1e-14)


@evaluations
def test_parameter_gradients_equal_the_dense_layers(evaluation: Evaluation) -> None:
    layer, x = kronecker_layer(evaluation), random_input((5,), 8)
    layer(x).square().sum().backward()
    assert layer.bias is not None
    leaves = [p.detach().clone().requires_grad_() for p in (layer.S, layer.A, layer.B, layer.bias)]
    F.linear(x, dense(*leaves[:3]), leaves[3]).square().sum().backward()
    for parameter, leaf in zip((layer.S, layer.A, layer.B, layer.bias), leaves, strict=True):
        torch.testing.assert_close(parameter.grad, leaf.grad, rtol=1e-12, atol=1e-13)


@evaluations
def test_pickle_deepcopy_and_state_dict_round_trip(evaluation: Evaluation) -> None:
    layer, x = kronecker_layer(evaluation), random_input((3,), 8)
    y = layer(x)
    fresh = KroneckerLinear(SHAPE, 3, evaluation, dtype=torch.float64)
    assert not torch.equal(fresh(x), y)
    assert list(layer.state_dict()) == ["S", "A", "B", "bias"]
    fresh.load_state_dict(layer.state_dict())
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), fresh):
        assert torch.equal(twin(x), y)
        assert (twin.shape, twin.rank, twin.evaluation) == (SHAPE, 3, evaluation)
        assert twin.S is not layer.S


def test_state_dict_survives_a_weights_only_file() -> None:
    layer, file = kronecker_layer(), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in layer.state_dict().items())


@evaluations
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtype_a_linear_layer_gives(evaluation: Evaluation, bias: bool, dtype: torch.dtype) -> None:
    layer = kronecker_layer(evaluation, torch.float32, bias)
    linear = nn.Linear(8, 15, bias=bias)
    x = random_input((4,), 8, torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        y, reference = layer(x), linear(x)
    assert y.dtype == reference.dtype == dtype
    y.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None for p in layer.parameters())


@evaluations
def test_symbolic_trace_sees_through_it(evaluation: Evaluation) -> None:
    layer = kronecker_layer(evaluation)
    traced = torch.fx.symbolic_trace(layer)
    for leading in ((), (1,), (4,), (2, 3), (0,)):
        x = random_input(leading, 8)
        assert torch.equal(traced(x), layer(x))
    reads = {node.target for node in traced.graph.nodes if node.op == "get_attr"}
    assert reads == {"S", "A", "B", "bias"}


@evaluations
def test_compiled_shapes_are_those_of_meta_tensors(evaluation: Evaluation) -> None:
    layer = KroneckerLinear(SHAPE, 3, evaluation, device="meta")
    assert layer(torch.empty(2, 3, 8, device="meta")).shape == (2, 3, 15)
    assert layer.weight.device.type == "meta"


def test_repr_says_what_it_is() -> None:
    assert repr(kronecker_layer("b_first")) == (
        "KroneckerLinear(in_features=8, out_features=15, blocks=3x4 of 5x2, rank=3, evaluation=b_first, bias=True)"
    )
