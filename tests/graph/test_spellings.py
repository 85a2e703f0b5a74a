"""Every spelling of a linear map: rewritten, equal to the original at full rank, equal again when folded."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import kronfx as kx
from kronfx.records import EVALUATIONS, Evaluation

# Float32 factors from an SVD and two products: about 1e-6 a layer, relative to outputs of order 1.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
M, N = 12, 20


class Spelled(nn.Module):
    """One weight, stored ``[m, n]`` or ``[n, m]``, in one spelling."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(*shape) / 4)
        self.b = nn.Parameter(torch.randn(M))


def spelled(name: str, shape: tuple[int, ...], forward: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    return type(name, (Spelled,), {"forward": forward})(*shape)


UPRIGHT, TURNED = (M, N), (N, M)
SPELLINGS: dict[str, tuple[tuple[int, ...], Callable[[nn.Module, Tensor], Tensor]]] = {
    "F.linear": (UPRIGHT, lambda self, x: F.linear(x, self.w, self.b)),
    "F.linear of W.t()": (TURNED, lambda self, x: F.linear(x, self.w.t(), self.b)),
    "x @ W.T": (UPRIGHT, lambda self, x: x @ self.w.T + self.b),
    "x @ W.mT": (UPRIGHT, lambda self, x: x @ self.w.mT),
    "x @ W.transpose(0, 1)": (UPRIGHT, lambda self, x: x @ self.w.transpose(0, 1)),
    "x @ W.permute(1, 0)": (UPRIGHT, lambda self, x: x @ self.w.permute(1, 0)),
    "x @ torch.t(W)": (UPRIGHT, lambda self, x: x @ torch.t(self.w)),
    "x @ W": (TURNED, lambda self, x: x @ self.w),
    "torch.matmul": (TURNED, lambda self, x: torch.matmul(x, self.w)),
    "x.matmul(W)": (TURNED, lambda self, x: x.matmul(self.w)),
    "torch.mm": (TURNED, lambda self, x: torch.mm(x, self.w)),
    "torch.addmm": (TURNED, lambda self, x: torch.addmm(self.b, x, self.w)),
    "b.addmm": (TURNED, lambda self, x: self.b.addmm(x, self.w)),
    "einsum upright": (UPRIGHT, lambda self, x: torch.einsum("an,mn->am", x, self.w)),
    "einsum turned": (TURNED, lambda self, x: torch.einsum("ad,dk->ak", x, self.w)),
    "einsum weight first": (UPRIGHT, lambda self, x: torch.einsum("mn,an->am", self.w, x)),
}


def reproduces(model: nn.Module, *inputs: Tensor, sites: set[str]) -> nn.Module:
    """Full rank gives the model back, and so do its fold, its copy and its pickle."""
    model.eval()
    with torch.no_grad():
        wanted = model(*inputs)
        factored = kx.factorize(model, rank="full", init="nearest")
        assert set(kx.factors(factored)) == sites
        twins = (factored, kx.fold(factored), copy.deepcopy(factored))
        for twin in twins:
            torch.testing.assert_close(twin(*inputs), wanted, **CLOSE)
    return factored


@pytest.mark.parametrize("name", SPELLINGS)
def test_spelling(name: str) -> None:
    torch.manual_seed(0)
    shape, forward = SPELLINGS[name]
    factored = reproduces(spelled("Spelling", shape, forward), torch.randn(5, N), sites={"w"})
    assert kx.factors(factored)["w"].materialize().shape == (M, N)
    small = kx.factorize(spelled("Spelling", shape, forward), rank=1, block=(3, 5))
    with FlopCounterMode(display=False) as counter:
        small(torch.randn(5, N))
    assert counter.get_total_flops() < 2 * 5 * M * N  # W is not formed


@pytest.mark.parametrize("name", [name for name in SPELLINGS if name != "torch.mm" and "addmm" not in name])
def test_spelling_in_an_exported_graph(name: str) -> None:
    torch.manual_seed(0)
    shape, forward = SPELLINGS[name]
    model, x = spelled("Spelling", shape, forward), torch.randn(5, N)
    exported = torch.export.export(model, (x,)).run_decompositions().module()
    factored = kx.factorize(exported, rank="full", init="nearest")
    torch.testing.assert_close(factored(x), model(x), **CLOSE)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x: self.w @ x.T, "from the left"),
        (lambda self, x: torch.addmm(self.b, x, self.w, alpha=2), "addmm scales"),
        (lambda self, x: torch.einsum("an,nm->ma", x, self.w), "no product of rows"),
        (lambda self, x: x + self.w.sum(), "read by sum"),
        (lambda self, x: F.embedding(x.long(), self.w), "read by embedding"),
    ],
)
def test_other_uses_are_refused_with_the_reason(forward: Callable[[nn.Module, Tensor], Tensor], reason: str) -> None:
    plan = kx.plan(spelled("Other", TURNED, forward))
    assert not plan.choices
    assert reason in plan.refusals[0].reason


def test_a_chain_of_spellings() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Parameter(torch.randn(M, N) / 4), nn.Parameter(torch.randn(M, 30) / 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.a.T) @ self.c

    torch.manual_seed(0)
    reproduces(Chain(), torch.randn(2, 3, N), sites={"a", "c"})


CONVOLUTIONS = [
    nn.Conv1d(4, 6, 5, padding="same"),
    nn.Conv2d(8, 12, 3, stride=2, padding=1, dilation=2),
    nn.Conv2d(6, 10, 1, bias=False),
    nn.Conv2d(4, 6, (3, 5), padding=(1, 2), padding_mode="circular"),
    nn.Conv3d(2, 4, 3),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_convolutions(conv: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, conv.in_channels, *[11] * len(conv.kernel_size))
    factored = reproduces(nn.Sequential(conv), x, sites={"0"})
    layer = kx.fold(factored)[0]
    if conv.padding_mode == "zeros":
        assert isinstance(layer, type(conv))
        assert (layer.stride, layer.padding, layer.weight.shape) == (conv.stride, conv.padding, conv.weight.shape)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.data(),
)
def test_convolution_evaluations(
    evaluation: Evaluation, m1: int, n1: int, m2: int, c2: int, k: int, stride: int, data: st.DataObject
) -> None:
    """Each evaluation against torch's convolution with the materialized kernel, and that against ``torch.kron``."""
    torch.manual_seed(0)
    rank = data.draw(st.integers(1, min(m1 * n1, m2 * c2 * k * k)))
    conv = nn.Conv2d(n1 * c2, m1 * m2, k, stride=stride, padding=k // 2)
    plan = kx.plan(nn.Sequential(conv), rank=rank, block=(m2, c2))
    plan = replace(plan, choices=tuple(replace(c, evaluation=evaluation) for c in plan.choices))
    layer = kx.factorize(nn.Sequential(conv), plan)[0]
    with torch.no_grad():
        layer.S.normal_()
        kernel = sum(
            torch.kron(layer.S * A, B).reshape(m1 * m2, n1, c2 * k * k)
            for A, B in zip(layer.A, layer.B.reshape(rank, m2, c2 * k * k), strict=True)
        ).reshape(m1 * m2, n1 * c2, k, k)
        x = torch.randn(2, n1 * c2, 6, 5)
        wanted = F.conv2d(x, kernel, layer.bias, stride, k // 2)
        torch.testing.assert_close(layer.weight, kernel, **CLOSE)
        torch.testing.assert_close(layer(x), wanted, **CLOSE)


def test_grouped_and_transposed_convolutions_are_refused() -> None:
    plan = kx.plan(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 4, 3)))
    assert "2 groups" in plan.refusals[0].reason
    assert "cannot be traced" in plan.refusals[1].reason


def test_conv1d_of_transformers() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    torch.manual_seed(0)
    reproduces(nn.Sequential(utils.Conv1D(M, N)), torch.randn(2, 3, N), sites={"0"})


class Experts(nn.Module):
    """``[experts, out, in]`` and the transposed layout, in batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 16, 8) / 4)
        self.down = nn.Parameter(torch.randn(4, 16, 8) / 4)
        self.bias = nn.Parameter(torch.randn(4, 1, 8) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, torch.relu(torch.bmm(x, self.up.transpose(1, 2))), self.down)


class RoutedExperts(nn.Module):
    """A loop over the experts that were hit: no trace goes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 16, 8) / 4)

    def forward(self, x: Tensor, expert: Tensor) -> Tensor:
        y = x.new_zeros(*x.shape[:-1], 16)
        for e in expert.unique():
            y[expert == e] = F.linear(x[expert == e], self.w[e])
        return y


def test_experts_share_one_shape() -> None:
    torch.manual_seed(0)
    factored = reproduces(Experts(), torch.randn(4, 5, 8), sites={"up", "down"})
    assert {tuple(f.materialize().shape) for f in kx.factors(factored).values()} == {(4, 16, 8), (4, 8, 16)}
    assert "read by baddbmm" in {r.site: r.reason for r in kx.plan(Experts()).refusals}["bias"]
    reproduces(RoutedExperts(), torch.randn(9, 8), torch.randint(0, 4, (9,)), sites={"w"})


def test_experts_count_in_the_plan() -> None:
    plan = kx.plan(RoutedExperts(), rank=1)
    assert plan.dense_parameters == 4 * 16 * 8
    factored = kx.factorize(RoutedExperts(), plan)
    assert plan.parameters == sum(p.numel() for p in factored.parameters())


def attention_inputs() -> list[dict[str, object]]:
    causal = torch.triu(torch.full((5, 5), float("-inf")), 1)
    padded = torch.zeros(3, 5, dtype=torch.bool)
    padded[1, 3:] = True
    return [{}, {"src_key_padding_mask": padded}, {"mask": causal, "is_causal": True}, {"mask": causal.isinf()}]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", range(4))
@torch.no_grad()
def test_transformer_encoder_with_and_without_masks(training: bool, case: int) -> None:
    """In eval mode the dense model takes torch's fast path, with and without nested tensors: the same numbers, but for
    padding, which that path alone sets to zero."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True), 2)
    x, options = torch.randn(3, 5, 16), attention_inputs()[case]
    encoder.train(training)
    factored = kx.factorize(encoder, rank="full", init="nearest")
    assert {site.rpartition(".")[2] for site in kx.factors(factored)} == {
        "in_proj_weight",
        "out_proj",
        "linear1",
        "linear2",
    }
    real = ~options.get("src_key_padding_mask", torch.zeros(3, 5, dtype=torch.bool))
    torch.testing.assert_close(factored(x, **options)[real], encoder(x, **options)[real], **CLOSE)
    torch.testing.assert_close(kx.fold(factored)(x, **options), encoder(x, **options), **CLOSE)


@pytest.mark.parametrize("options", [{}, {"kdim": 12, "vdim": 10}, {"bias": False}, {"add_bias_kv": True}])
@pytest.mark.parametrize("call", [{}, {"need_weights": False}, {"average_attn_weights": False}])
@torch.no_grad()
def test_multihead_attention(options: dict[str, object], call: dict[str, bool]) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, **options)
    q, k, v = torch.randn(5, 3, 16), torch.randn(7, 3, attention.kdim), torch.randn(7, 3, attention.vdim)
    factored = kx.factorize(attention, rank="full", init="nearest")
    assert isinstance(factored, nn.MultiheadAttention)
    for ours, theirs in zip(factored(q, k, v, **call), attention(q, k, v, **call), strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, **CLOSE)


def test_an_adopted_owner_stays_what_it_was() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4)
    factored = kx.factorize(attention, rank=2)
    q = torch.randn(5, 3, 16)
    for twin in (copy.deepcopy(factored), pickle.loads(pickle.dumps(factored))):
        assert type(twin) is type(factored)
        assert torch.equal(twin(q, q, q)[0], factored(q, q, q)[0])
    assert factored.in_proj_weight.shape == (48, 16)
    assert {"in_proj_bias", "out_proj.bias"} < set(factored.state_dict())
    assert set(kx.fold(factored).state_dict()) == set(attention.state_dict())
    assert type(kx.fold(factored)) is nn.MultiheadAttention


def test_tied_weights_are_rewritten_once_untied() -> None:
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False))
    model[1].weight = model[0].weight
    assert not kx.plan(model).choices
    factored = kx.factorize(model, rank="full", init="nearest", untie=True)
    x = torch.randn(3, 32)
    assert factored[0] is not factored[1]
    torch.testing.assert_close(factored(x), model(x), **CLOSE)
