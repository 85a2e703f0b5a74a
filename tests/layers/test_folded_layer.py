"""The folded layer as a module, and both kinds inside a model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from models import SHAPE, kronecker_layer
from oracles import assert_dense_output, dense_weight, random_input
from torch import nn

from kronfx.errors import TrainError
from kronfx.layers import (
    BlockSparseLinear,
    adopt,
    factors,
    folded_layers,
    kronecker_layers,
    require_module,
    site_name,
    sparsity,
)

# The folded layer.


def _folded(bias: bool = True) -> nn.Linear:
    layer = kronecker_layer(bias=bias)
    return BlockSparseLinear(layer.weight, layer.bias, SHAPE)


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_layer_is_a_linear_layer_of_the_same_weight(bias: bool) -> None:
    layer, folded = kronecker_layer(bias=bias), _folded(bias)
    assert type(folded) is nn.Linear
    assert isinstance(folded, BlockSparseLinear)
    assert not isinstance(nn.Linear(8, 15), BlockSparseLinear)
    assert (folded.in_features, folded.out_features) == (8, 15)
    assert torch.equal(folded.weight, layer.weight)
    assert list(folded.state_dict()) == list(nn.Linear(8, 15, bias=bias).state_dict())
    x = random_input((2, 3), 8)
    assert_dense_output(layer, x, folded(x))


def test_a_folded_layer_owns_its_tensors() -> None:
    weight, bias = random_input((15,), 8), random_input((), 15)
    folded = BlockSparseLinear(weight, bias, SHAPE)
    before = folded.weight.detach().clone(), folded.bias.detach().clone()
    weight.zero_()
    bias.zero_()
    assert torch.equal(folded.weight, before[0])
    assert torch.equal(folded.bias, before[1])


@pytest.mark.parametrize("trained", [True, False])
def test_a_folded_layer_trains_if_its_weight_did(trained: bool) -> None:
    weight = nn.Parameter(random_input((15,), 8), requires_grad=trained)
    folded = BlockSparseLinear(weight, None, SHAPE)
    assert folded.weight.requires_grad == trained
    assert folded.weight.is_leaf


def test_a_folded_layer_round_trips() -> None:
    folded, x = _folded(), random_input((3,), 8)
    linear = nn.Linear(8, 15, dtype=torch.float64)
    linear.load_state_dict(folded.state_dict())
    for twin in (pickle.loads(pickle.dumps(folded)), copy.deepcopy(folded), linear):
        assert torch.equal(twin(x), folded(x))
    for twin in (pickle.loads(pickle.dumps(folded)), copy.deepcopy(folded)):
        assert folded_layers(twin)["weight"].shape == SHAPE
    assert folded.half()(x.half()).dtype == torch.float16


def test_a_weight_of_another_size_has_lost_its_grid() -> None:
    folded = _folded()
    folded.weight = nn.Parameter(folded.weight.detach()[:11])  # on the padded grid of the same number of blocks
    assert folded_layers(folded)["weight"].shape == SHAPE
    folded.weight = nn.Parameter(folded.weight.detach()[:10])
    assert folded_layers(folded) == {}
    del folded.weight
    assert folded_layers(folded) == {}


# Both, inside a model.


def _model() -> nn.Sequential:
    owner = nn.Linear(8, 15)
    adopt(owner, "weight", kronecker_layer(bias=False), False)
    return nn.Sequential(kronecker_layer("b_first"), owner, _folded())


def test_sites_are_named_by_their_weight() -> None:
    assert [site_name(path) for path in ("encoder.fc1.weight", "encoder.fc1", "fc1.weight", "weight", "")] == [
        "encoder.fc1",
        "encoder.fc1",
        "fc1",
        "weight",
        "weight",
    ]
    assert list(kronecker_layers(_model())) == ["0", "1"]
    assert list(folded_layers(_model())) == ["2"]


def test_factors_are_live() -> None:
    model = _model()
    found = factors(model)
    assert list(found) == ["0", "1"]
    layer = kronecker_layers(model)["0"]
    assert (found["0"].S is layer.S, found["0"].A is layer.A, found["0"].B is layer.B) == (True, True, True)
    assert (found["0"].shape, found["0"].rank) == (SHAPE, 3)
    torch.testing.assert_close(found["0"].materialize().detach(), dense_weight(layer), rtol=1e-13, atol=1e-15)
    with torch.no_grad():
        found["0"].S.zero_()
    assert layer.bias is not None
    assert torch.equal(layer(random_input((1,), 8))[0], layer.bias)


def test_sparsity_counts_the_zero_blocks_of_the_weight_whatever_zeroed_them() -> None:
    model = _model()
    assert sparsity(model) == (3, 36)
    layers = kronecker_layers(model)
    with torch.no_grad():
        layers["0"].S[0, 0] = -1e-30  # small and negative is not zero
        layers["0"].A[:, 2, 3] = 0  # no zero of S, and the block is gone
        folded_layers(model)["2"].weight[0:5, 0:2] = 0
        layers["1"].B.zero_()
    assert sparsity(model) == (1 + 1 + 12 + 1 + 1, 36)
    assert sparsity(nn.Linear(3, 3)) == (0, 0)


def test_what_is_no_module_is_refused_by_name() -> None:
    require_module(nn.Linear(1, 1), TrainError)
    with pytest.raises(TrainError, match=r"^train: a dict where the model belongs; needed a torch.nn.Module; "):
        require_module({}, TrainError)
