"""The factored and the folded layer as modules: what ``nn.Linear`` answers, they answer."""

from __future__ import annotations

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import assert_near, dense, random_input, rearrangement
from torch import Tensor, nn

from kronfx.errors import TrainError
from kronfx.layers import (
    BlockSparseLinear,
    KroneckerLinear,
    adopt,
    factors,
    folded_layers,
    kronecker_layers,
    require_module,
    site_name,
    sparsity,
)
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape

SHAPE = KroneckerShape(3, 4, 5, 2)  # W [15, 8]
evaluations = pytest.mark.parametrize("evaluation", EVALUATIONS)


def _layer(
    evaluation: Evaluation = "a_first", dtype: torch.dtype = torch.float64, bias: bool = True
) -> KroneckerLinear:
    """A seeded layer of rank 3 with one block of ``S`` switched off."""
    torch.manual_seed(0)
    layer = KroneckerLinear(SHAPE, 3, evaluation, bias=bias, dtype=dtype)
    with torch.no_grad():
        layer.S[1, 2] = 0
    return layer


def _oracle_weight(layer: KroneckerLinear) -> Tensor:
    return dense(layer.S.detach().double(), layer.A.detach().double(), layer.B.detach().double())


def _check_output(layer: KroneckerLinear, x: Tensor, y: Tensor) -> None:
    """``y`` is what a dense layer with the oracle's weight gives, as near as the dtype lets it be."""
    W, bias = _oracle_weight(layer), None if layer.bias is None else layer.bias.detach().double()
    uncancelled = dense(*(f.detach().double().abs() for f in (layer.S, layer.A, layer.B)))
    magnitude = F.linear(x.double().abs(), uncancelled, None if bias is None else bias.abs())
    terms = layer.rank * layer.shape.n
    assert_near(y.detach(), F.linear(x.double(), W, bias), magnitude, layer.S.dtype, terms)


@evaluations
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_forward_is_the_dense_layer_of_the_same_weight(evaluation: Evaluation, bias: bool, dtype: torch.dtype) -> None:
    layer = _layer(evaluation, dtype, bias)
    x = random_input((2, 3), 8, dtype)
    _check_output(layer, x, layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@evaluations
def test_to_converts_the_whole_layer(evaluation: Evaluation, dtype: torch.dtype) -> None:
    layer = _layer(evaluation).to(dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert layer.weight.dtype == dtype
    x = random_input((4,), 8, dtype)
    _check_output(layer, x, layer(x))


def test_it_answers_what_a_linear_layer_answers() -> None:
    layer = _layer()
    linear = nn.Linear(8, 15, dtype=torch.float64)
    assert (layer.in_features, layer.out_features) == (linear.in_features, linear.out_features)
    weight = layer.weight
    assert (weight.shape, weight.dtype, weight.device) == (
        linear.weight.shape,
        linear.weight.dtype,
        linear.weight.device,
    )
    torch.testing.assert_close(weight.detach(), _oracle_weight(layer), rtol=1e-13, atol=1e-15)
    assert isinstance(layer.bias, nn.Parameter)
    assert _layer(bias=False).bias is None
    assert _layer(bias=False)(random_input((4,), 8)).shape == (4, 15)


def test_weight_is_differentiable_in_the_factors() -> None:
    layer = _layer()
    layer.weight.square().sum().backward()
    leaves = [f.detach().clone().requires_grad_() for f in (layer.S, layer.A, layer.B)]
    dense(*leaves).square().sum().backward()
    for parameter, leaf in zip((layer.S, layer.A, layer.B), leaves, strict=True):
        torch.testing.assert_close(parameter.grad, leaf.grad, rtol=1e-12, atol=1e-14)


@evaluations
def test_parameter_gradients_equal_the_dense_layers(evaluation: Evaluation) -> None:
    layer, x = _layer(evaluation), random_input((5,), 8)
    layer(x).square().sum().backward()
    assert layer.bias is not None
    leaves = [p.detach().clone().requires_grad_() for p in (layer.S, layer.A, layer.B, layer.bias)]
    F.linear(x, dense(*leaves[:3]), leaves[3]).square().sum().backward()
    for parameter, leaf in zip((layer.S, layer.A, layer.B, layer.bias), leaves, strict=True):
        torch.testing.assert_close(parameter.grad, leaf.grad, rtol=1e-12, atol=1e-13)


# Initialization: every block of every draw, and the outputs over many draws, against nn.Linear's 1 / (3 n).

DRAWS = 400


def _outputs(shape: KroneckerShape, rank: int) -> Tensor:
    """Mean square of ``y = W x`` at a fixed ``x`` of norm ``sqrt(n)``, one a draw."""
    torch.manual_seed(7)
    x = F.normalize(random_input((), shape.n, torch.float32), dim=0) * math.sqrt(shape.n)
    layer = KroneckerLinear(shape, rank, "materialize", bias=False)
    outputs = []
    for _ in range(DRAWS):
        layer.reset_factors()
        outputs.append((dense(layer.S, layer.A, layer.B).detach() @ x).square().mean())
    return torch.stack(outputs).double()


def _assert_blocks(layer: KroneckerLinear, std: float) -> None:
    """Every block has the root mean square ``std``: four roundings of the dtype, and those of a sum of r^2 terms."""
    S, A, B = (factor.detach().double() for factor in (layer.S, layer.A, layer.B))
    blocks = torch.from_numpy(rearrangement(dense(S, A, B), *layer.shape.block))
    wanted = torch.full((layer.shape.blocks,), std, dtype=torch.float64)
    bound = 32 * layer.rank * torch.finfo(layer.S.dtype).eps  # amplified where the B_i are nearly parallel
    torch.testing.assert_close(blocks.square().mean(-1).sqrt(), wanted, rtol=bound, atol=0)


def _assert_mean(draws: Tensor, expected: float) -> None:
    """The mean of independent draws is within 4 of its standard errors, themselves under 8% of what is expected."""
    error = float(draws.std()) / math.sqrt(len(draws))
    assert error < 0.08 * expected
    assert abs(float(draws.mean()) - expected) < 4 * error


INIT_SHAPES = [
    KroneckerShape(8, 8, 4, 4),
    KroneckerShape(2, 28, 5, 28),
    KroneckerShape(16, 4, 8, 8),
    KroneckerShape(1, 6, 20, 10),
    KroneckerShape(15, 20, 2, 2),
]


@pytest.mark.parametrize("shape", INIT_SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 8])
def test_random_outputs_have_the_dense_layers_variance(shape: KroneckerShape, rank: int) -> None:
    _assert_mean(_outputs(shape, rank), 1 / 3)  # n entries of W, each of variance 1 / (3 n), at |x|^2 = n


@pytest.mark.parametrize("shape", [*INIT_SHAPES, KroneckerShape(1, 1, 6, 6), KroneckerShape(6, 6, 1, 1)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_block_of_every_draw_has_the_dense_layers_variance(
    shape: KroneckerShape, rank: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = KroneckerLinear(shape, min(rank, shape.max_rank), "materialize", dtype=dtype)
    _assert_blocks(layer, 1 / math.sqrt(3 * shape.n))


def test_dense_layers_have_the_variance_the_factored_ones_are_held_to() -> None:
    torch.manual_seed(0)
    draws = torch.stack([nn.Linear(32, 32).weight.detach().square().mean() for _ in range(100)]).double()
    _assert_mean(draws, 1 / (3 * 32))


@pytest.mark.parametrize("seed", [12, 34])  # two of the first 60 that draw a zero among the 2^20 coefficients
def test_a_draw_of_exactly_zero_is_no_nan(seed: int) -> None:
    layer = KroneckerLinear(KroneckerShape(1024, 1024, 2, 2), 1, "materialize", bias=False)
    torch.manual_seed(seed)
    assert not torch.randn(layer.A.shape).all()
    torch.manual_seed(seed)
    layer.reset_factors(0.02)
    _assert_blocks(layer, 0.02)


def test_a_wanted_deviation_is_met() -> None:
    layer = KroneckerLinear(KroneckerShape(8, 8, 4, 4), 4, "materialize")
    layer.reset_factors(0.02)
    _assert_blocks(layer, 0.02)


def test_a_stack_draws_each_of_its_maps() -> None:
    layer = KroneckerLinear(KroneckerShape(3, 2, 4, 4), 2, "materialize", bias=False, stack=(5,))
    layer.reset_factors(0.02)
    norms = layer.weight.detach().unflatten(1, (3, 4)).unflatten(3, (2, 4)).square().mean(dim=(2, 4)).sqrt()
    torch.testing.assert_close(norms, torch.full((5, 3, 2), 0.02), rtol=1e-5, atol=0)
    assert not torch.equal(layer.A[0], layer.A[1])


def test_random_bias_is_the_dense_layers_and_s_is_one() -> None:
    torch.manual_seed(0)
    layer = KroneckerLinear(KroneckerShape(50, 5, 20, 5), 2, "b_first")
    assert layer.bias is not None
    assert torch.equal(layer.S, torch.ones(50, 5))
    bound = 1 / math.sqrt(25)
    assert float(layer.bias.detach().abs().max()) <= bound
    _assert_mean(layer.bias.detach().double().square(), bound**2 / 3)


def test_resetting_the_factors_leaves_the_bias() -> None:
    layer = _layer()
    assert layer.bias is not None
    bias, A = layer.bias.detach().clone(), layer.A.detach().clone()
    layer.reset_factors()
    assert torch.equal(layer.bias, bias)
    assert not torch.equal(layer.A, A)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_set_nearest_at_full_rank_is_exact(dtype: torch.dtype) -> None:
    layer = KroneckerLinear(SHAPE, SHAPE.max_rank, "a_first", dtype=dtype)
    W = random_input((15,), 8, dtype)
    W[5:10, 4:6] = 0  # block (1, 2)
    layer.set_nearest(W)
    assert layer.S[1, 2] == 0
    assert int(layer.S.count_nonzero()) == 11
    # The SVD and the product err by max(rows, columns) eps of the norm each.
    error = float((_oracle_weight(layer) - W.double()).norm())
    assert error <= 2 * 12 * torch.finfo(dtype).eps * SHAPE.max_rank**0.5 * float(W.double().norm())
    assert layer.A.requires_grad
    assert layer.A.is_leaf


@evaluations
def test_pickle_deepcopy_and_state_dict_round_trip(evaluation: Evaluation) -> None:
    layer, x = _layer(evaluation), random_input((3,), 8)
    y = layer(x)
    fresh = KroneckerLinear(SHAPE, 3, evaluation, dtype=torch.float64)
    assert not torch.equal(fresh(x), y)
    assert list(layer.state_dict()) == ["S", "A", "B", "bias"]
    fresh.load_state_dict(layer.state_dict())
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), fresh):
        assert torch.equal(twin(x), y)
        assert (twin.shape, twin.rank, twin.evaluation) == (SHAPE, 3, evaluation)
        assert twin.S is not layer.S


@pytest.mark.parametrize("rank", [1, 3, 10])
def test_nearest_factors_know_the_energy_they_keep(rank: int) -> None:
    layer = KroneckerLinear(SHAPE, rank, "materialize")
    assert layer.energy is None
    W = random_input((15,), 8, torch.float32)
    layer.set_nearest(W)
    squares = np.linalg.svd(rearrangement(W, *SHAPE.block), compute_uv=False) ** 2
    assert layer.energy == pytest.approx(squares[:rank].sum() / squares.sum(), rel=1e-5)  # float32
    assert f"energy={layer.energy:.1%}" in repr(layer)
    layer.set_nearest(torch.zeros(15, 8))
    assert layer.energy == 1


def test_state_dict_survives_a_weights_only_file() -> None:
    layer, file = _layer(), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert all(torch.equal(loaded[name], value) for name, value in layer.state_dict().items())


@evaluations
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_dtype_a_linear_layer_gives(evaluation: Evaluation, bias: bool, dtype: torch.dtype) -> None:
    layer = _layer(evaluation, torch.float32, bias)
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
    layer = _layer(evaluation)
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
    assert repr(_layer("b_first")) == (
        "KroneckerLinear(in_features=8, out_features=15, blocks=3x4 of 5x2, rank=3, evaluation=b_first, bias=True)"
    )


# The folded layer.


def _folded(bias: bool = True) -> nn.Linear:
    layer = _layer(bias=bias)
    return BlockSparseLinear(layer.weight, layer.bias, SHAPE)


@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_layer_is_a_linear_layer_of_the_same_weight(bias: bool) -> None:
    layer, folded = _layer(bias=bias), _folded(bias)
    assert type(folded) is nn.Linear
    assert isinstance(folded, BlockSparseLinear)
    assert not isinstance(nn.Linear(8, 15), BlockSparseLinear)
    assert (folded.in_features, folded.out_features) == (8, 15)
    assert torch.equal(folded.weight, layer.weight)
    assert list(folded.state_dict()) == list(nn.Linear(8, 15, bias=bias).state_dict())
    x = random_input((2, 3), 8)
    _check_output(layer, x, folded(x))


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
    adopt(owner, "weight", _layer(bias=False), False)
    return nn.Sequential(_layer("b_first"), owner, _folded())


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
    torch.testing.assert_close(found["0"].materialize().detach(), _oracle_weight(layer), rtol=1e-13, atol=1e-15)
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
