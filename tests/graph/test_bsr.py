"""``to_bsr``: the folded model's answers from its surviving blocks, against the dense weight."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Shared, lenet5
from oracles import DTYPES, assert_near, random_input
from torch import Tensor, nn

import kronfx as kx
from kronfx.errors import FoldError
from kronfx.graph.bsr import to_bsr
from kronfx.layers import BlockSparseLinear
from kronfx.layers.bsr import BsrLinear
from kronfx.records import KroneckerShape

SIZES = st.integers(1, 7)


def folded_layer(
    shape: KroneckerShape, dtype: torch.dtype = torch.float64, zeros: float = 0.6, bias: bool = True
) -> nn.Linear:
    """A layer of normal entries, a share ``zeros`` of its blocks exactly zero."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(shape.m1, shape.n1, generator=generator) >= zeros
    W = torch.randn(shape.m, shape.n, generator=generator) * torch.kron(kept, torch.ones(shape.block))
    b = torch.randn(shape.m, generator=generator) if bias else None
    return BlockSparseLinear(W.to(dtype).requires_grad_(), None if b is None else b.to(dtype), shape)


def assert_same(layer: nn.Linear, x: Tensor, y: Tensor) -> None:
    """``y`` is the dense product in float64, as near as the dtype of ``x`` lets it be."""
    W, b = layer.weight.detach().double(), None if layer.bias is None else layer.bias.detach().double()
    magnitude = F.linear(x.double().abs(), W.abs(), None if b is None else b.abs())
    assert_near(y.detach(), F.linear(x.double(), W, b), magnitude, x.dtype, layer.in_features)


def bert_like() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2).eval()


@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(DTYPES), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_any_grid_in_any_dtype(
    m1: int, n1: int, m2: int, n2: int, dtype: torch.dtype, zeros: float, bias: bool
) -> None:
    layer = folded_layer(KroneckerShape(m1, n1, m2, n2), dtype, zeros, bias)
    found = BsrLinear(layer)
    for leading in ((), (1,), (5,), (2, 3), (2, 0)):
        x = random_input(leading, layer.in_features, dtype)
        assert_same(layer, x, found(x))


@given(SIZES, SIZES, SIZES, SIZES)
def test_the_weight_is_torchs_own_bsr_tensor(m1: int, n1: int, m2: int, n2: int) -> None:
    layer = folded_layer(KroneckerShape(m1, n1, m2, n2))
    found = BsrLinear(layer)
    wanted = layer.weight.detach().to_sparse_bsr((m2, n2))
    assert found.weight.layout == torch.sparse_bsr
    assert found.weight.values().shape == wanted.values().shape
    assert torch.equal(found.weight.to_dense(), layer.weight.detach())
    assert sum(p.numel() for p in found.parameters()) == wanted.values().numel() + layer.out_features


def test_torchs_own_product_takes_the_weight() -> None:
    layer = folded_layer(KroneckerShape(3, 5, 4, 4), torch.float32)
    x = random_input((7,), layer.in_features, torch.float32)
    if not torch.backends.mkl.is_available():
        pytest.skip("torch multiplies BSR matrices by MKL, which this build has not")
    with torch.no_grad():
        assert_same(layer, x, F.linear(x, BsrLinear(layer).weight, layer.bias))


def test_gradients_are_the_dense_ones_and_zero_blocks_get_none() -> None:
    layer = folded_layer(KroneckerShape(4, 3, 2, 5))
    found = BsrLinear(layer)
    x = random_input((6,), layer.in_features)
    x_dense, x_bsr = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(x_dense).square().sum().backward()
    found(x_bsr).square().sum().backward()
    assert x_dense.grad is not None
    assert x_bsr.grad is not None
    assert layer.weight.grad is not None
    torch.testing.assert_close(x_bsr.grad, x_dense.grad)
    tiles = layer.weight.grad.unflatten(0, (4, 2)).unflatten(-1, (3, 5)).transpose(1, 2)
    kept = layer.weight.detach().unflatten(0, (4, 2)).unflatten(-1, (3, 5)).transpose(1, 2).flatten(2).any(dim=-1)
    torch.testing.assert_close(found.values.grad, tiles[kept])


@settings(deadline=None)
@given(
    SIZES, SIZES, SIZES, SIZES, st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([(), (5,), (2, 0), (2, 3)]),
    st.sampled_from(["plain", "strided", "broadcast"]),
)  # fmt: skip
def test_gradients_however_the_input_lies(
    m1: int, n1: int, m2: int, n2: int, zeros: float, leading: tuple[int, ...], arranged: str
) -> None:
    layer = folded_layer(KroneckerShape(m1, n1, m2, n2), zeros=zeros).requires_grad_()
    found, n = BsrLinear(layer), layer.in_features
    x = random_input(leading, 2 * n).requires_grad_()
    shown = {"plain": x[..., :n], "strided": x[..., ::2], "broadcast": x[..., :1].expand(*leading, n)}[arranged]
    dy = random_input(leading, layer.out_features, seed=2)
    dx, dbias, dW = torch.autograd.grad(layer(shown), [x, layer.bias, layer.weight], dy)
    ours = torch.autograd.grad(found(shown), [x, found.bias, found.values], dy)
    torch.testing.assert_close(ours[0], dx)
    torch.testing.assert_close(ours[1], dbias)
    tiles = dW.unflatten(0, (m1, m2)).unflatten(-1, (n1, n2)).transpose(1, 2).flatten(0, 1)
    kept = layer.weight.detach().unflatten(0, (m1, m2)).unflatten(-1, (n1, n2)).transpose(1, 2).flatten(2).any(dim=-1)
    torch.testing.assert_close(ours[2], tiles[kept.flatten()])


def test_derivatives_of_derivatives_transforms_and_compilers() -> None:
    found = BsrLinear(folded_layer(KroneckerShape(3, 2, 2, 3), zeros=0.4))
    x = random_input((4,), found.in_features).requires_grad_()

    def call(x: Tensor, values: Tensor) -> Tensor:
        return torch.func.functional_call(found, {"values": values}, x)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(call, (x, found.values), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, (x, found.values))
    each = torch.func.vmap(torch.func.grad(lambda x: found(x).square().sum()))(x)
    torch.testing.assert_close(each, torch.autograd.grad(found(x).square().sum(), x)[0])
    torch.testing.assert_close(torch.compile(found, backend="eager", fullgraph=True)(x), found(x))
    torch.testing.assert_close(torch.export.export(found, (x,)).module()(x), found(x))


def test_blocks_of_another_state_are_where_that_has_them() -> None:
    shape = KroneckerShape(3, 4, 2, 5)
    W = torch.randn(6, 20, dtype=torch.float64).unflatten(0, (3, 2)).unflatten(-1, (4, 5))
    one, other = (W * (torch.arange(12).view(3, 1, 4, 1) % 3 == k) for k in (0, 1))
    layers = [BlockSparseLinear(w.reshape(6, 20), None, shape) for w in (one, other)]
    found, x = BsrLinear(layers[0]), random_input((3,), 20)
    torch.testing.assert_close(found(x), layers[0](x))
    found.load_state_dict(BsrLinear(layers[1]).state_dict())
    torch.testing.assert_close(found(x), layers[1](x))


def test_fine_tuning_keeps_the_zeros() -> None:
    factored = kx.factorize(nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24)), rank=1, block=(4, 6))
    for layer in (factored[0], factored[2]):
        layer.S.data[:, ::2] = 0
    sparse, x = to_bsr(kx.fold(factored)), torch.randn(16, 24)
    optimizer = torch.optim.AdamW(sparse.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.mse_loss(sparse(x), x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    zeros = sparse[0].weight.to_dense().unflatten(1, (4, 6))[:, ::2]
    assert not zeros.any()
    assert len(sparse[0].values) == 12


def test_autocast_answers_in_half_precision() -> None:
    layer = folded_layer(KroneckerShape(3, 4, 2, 8), torch.float32)
    x = random_input((5,), layer.in_features, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = BsrLinear(layer)(x)
    assert y.dtype == torch.bfloat16
    assert_same(layer.to(torch.bfloat16), x.bfloat16(), y)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_it_is_a_module_like_any_other(clone) -> None:
    layer = folded_layer(KroneckerShape(3, 4, 2, 8))
    found = BsrLinear(layer)
    x = random_input((5,), layer.in_features)
    other = clone(found)
    assert torch.equal(other(x), found(x))
    other.values.data.zero_()
    other.load_state_dict(found.state_dict())
    assert torch.equal(other(x), found(x))
    half = clone(found).to(torch.float16)
    assert half.weight.dtype == half(x.half()).dtype == torch.float16
    assert clone(found).to("meta").weight.is_meta
    assert "stored=" in repr(found)


def test_a_whole_model() -> None:
    torch.manual_seed(0)
    factored = kx.factorize(
        nn.Sequential(nn.Linear(36, 54), nn.Tanh(), nn.Linear(54, 45), nn.Linear(45, 10)), rank=2
    ).double()
    for layer in factored.modules():
        if hasattr(layer, "S"):
            layer.S.data[torch.rand_like(layer.S) < 0.6] = 0
    folded = kx.fold(factored).eval()
    x = random_input((9,), 36)
    before = {name: value.clone() for name, value in folded.state_dict().items()}
    sparse = to_bsr(folded)
    assert [isinstance(module, BsrLinear) for module in sparse] == [True, False, True, True]
    torch.testing.assert_close(sparse(x), folded(x))
    assert all(torch.equal(value, before[name]) for name, value in folded.state_dict().items())
    assert not any(isinstance(module, BsrLinear) for module in folded.modules())
    assert to_bsr(folded, inplace=True) is folded
    torch.testing.assert_close(folded(x), sparse(x))


def test_hooks_mode_and_ties_stay() -> None:
    folded = kx.fold(kx.factorize(Shared(), rank=1, block=(4, 4))).eval()
    calls: list[nn.Module] = []
    folded.layer.register_forward_hook(lambda module, *_: calls.append(module))
    sparse = to_bsr(folded)
    x = random_input((3,), 16, torch.float32)
    torch.testing.assert_close(sparse(x), folded(x))
    assert sparse.layer is sparse.again
    assert not sparse.layer.training
    assert [module for module in calls if isinstance(module, BsrLinear)] == [sparse.layer] * 2


def test_a_lone_layer_and_a_frozen_one() -> None:
    layer = folded_layer(KroneckerShape(2, 3, 4, 5))
    layer.weight.requires_grad_(False)
    sparse = to_bsr(layer)
    assert isinstance(sparse, BsrLinear)
    assert not sparse.values.requires_grad
    assert (sparse.in_features, sparse.out_features) == (15, 8)


def test_convolutions_stay() -> None:
    model = lenet5().eval()
    folded = kx.fold(kx.factorize(model, rank=1))
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sparse = to_bsr(folded)
    converted = {name for name, module in sparse.named_modules() if isinstance(module, BsrLinear)}
    assert converted == {"fc1", "fc2", "fc3"}
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), folded(x))


def test_weights_that_torchs_fused_encoder_reads_stay() -> None:
    folded = nn.Sequential(
        kx.fold(kx.factorize(bert_like(), rank=1, block=(4, 4), zero_start=None)),
        folded_layer(KroneckerShape(2, 4, 3, 4), torch.float32),
    )
    sparse = to_bsr(folded)
    x = random_input((2, 5), 16, torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(sparse(x), folded(x))
    assert [isinstance(module, BsrLinear) for module in sparse] == [False, True]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (nn.Linear(4, 4), "fold: no folded linear layer in this model; needed a model that kronfx.fold returned; fold"),
        (kx.factorize(nn.Sequential(nn.Linear(8, 8)), rank=1, block=(2, 2)), "factored layers that are not folded yet"),
        (bert_like(), "no folded linear layer"),
        ("model.pt", "a str where the model belongs"),
        (folded_layer(KroneckerShape(2, 2, 2, 2)).to("meta"), "a weight on the meta device"),
    ],
)
def test_a_sentence_for_what_cannot_be_done(model: nn.Module, sentence: str) -> None:
    with pytest.raises(FoldError, match=sentence):
        to_bsr(model)
