"""The pass and its reverse. The oracle is the original model: full-rank nearest factors must reproduce it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise

import models
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import CLOSE
from torch import Tensor, fx, nn

import kronfx as kx
from kronfx.graph.discover import discover
from kronfx.layers import FOLDED, KroneckerLinear, folded_layers, kronecker_layers, released

Case = tuple[Callable[[], nn.Module], Callable[[], Tensor]]
TOKENS: Callable[[], Tensor] = lambda: torch.randint(0, 40, (3, 5))  # noqa: E731
CASES: dict[str, Case] = {
    "odd": (models.Odd, lambda: torch.randn(4, 37)),
    "functional": (models.Functional, lambda: torch.randn(2, 3, 18)),
    "shared": (models.Shared, lambda: torch.randn(5, 16)),
    "tied": (models.Tied, TOKENS),
    "root linear": (lambda: nn.Linear(12, 20), lambda: torch.randn(3, 12)),
    "root functional": (models.Optional, lambda: torch.randn(3, 8)),
    "lenet": (models.lenet5, lambda: torch.randn(2, 1, 28, 28)),
    "graph module": (lambda: fx.symbolic_trace(models.Functional().eval()), lambda: torch.randn(2, 18)),
    "exported": (
        lambda: torch.export.export(models.mlp(12, 20, 6), (torch.randn(4, 12),)).module(),
        lambda: torch.randn(4, 12),
    ),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(16, 2, 24, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
    "lstm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), lambda: torch.randn(3, 6)),
}


def evaluated(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, example = CASES[name]
    model = build()
    for module in model.modules():  # an exported module refuses eval()
        module.training = False
    return model, example()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_full_rank_nearest_factors_reproduce_the_model(name: str) -> None:
    model, x = evaluated(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wanted = model(x)
    rewritten = kx.factorize(model, rank="full", init="nearest") if discover(model).matches else model
    assert set(kx.factors(rewritten)) == {match.site.name for match in discover(model).matches}
    torch.testing.assert_close(rewritten(x), wanted, **CLOSE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "the input was mutated"


@pytest.mark.parametrize("name", [name for name in CASES if name != "root functional"])
@torch.no_grad()
def test_fold_computes_what_the_factors_compute(name: str) -> None:
    model, x = evaluated(name)
    factored = kx.factorize(model, rank=2)
    for factors in kx.factors(factored).values():
        factors.S[torch.rand_like(factors.S) < 0.5] = 0
    wanted = {site: factors.materialize() for site, factors in kx.factors(factored).items()}
    folded = kx.fold(factored)
    assert not kx.factors(folded)
    assert kx.factors(factored), "the input was mutated"
    torch.testing.assert_close(folded(x), factored(x), **CLOSE)
    layers = folded_layers(folded)
    assert wanted.keys() == layers.keys()
    for site, W in wanted.items():
        assert torch.equal(layers[site].weight, W)


@pytest.mark.parametrize("name", [name for name in CASES if name != "root functional"])
@torch.no_grad()
def test_the_whole_graph_spells_out_and_folds(name: str) -> None:
    model, x = evaluated(name)
    factored = kx.factorize(model, rank=2)
    graph = kx.graph(factored, x)
    torch.testing.assert_close(graph(x), factored(x), **CLOSE)
    marked = {node.meta["kronfx"] for node in graph.graph.nodes if "kronfx" in node.meta and node.op != "get_attr"}
    called = {site for site in kx.factors(factored) if site != "unused"}
    assert marked == called
    folded = kx.fold(graph)
    torch.testing.assert_close(folded(x), factored(x), **CLOSE)
    assert {W.shape for m in folded.modules() if isinstance(m, FOLDED) for W in released(m).values()} == {
        kronecker_layers(factored)[site].grid for site in called
    }


@pytest.mark.parametrize("name", ["odd", "functional", "shared", "tied", "lenet"])
def test_a_rewritten_model_trains(name: str) -> None:
    model, x = evaluated(name)
    factored = kx.factorize(model.train())
    optimizer = torch.optim.Adam(factored.parameters(), lr=1e-2)
    target = torch.randn_like(factored(x))
    losses = []
    for _ in range(30):
        loss = (factored(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        for site, factors in kx.factors(factored).items():
            if site != "unused":
                assert all(f.grad is not None and f.grad.any() for f in (factors.S, factors.A, factors.B)), site
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


class Unseen(nn.Module):
    """Odd and prime sizes, as a property test draws them."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, m) for n, m in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@given(st.lists(st.integers(1, 61), min_size=2, max_size=4))
@torch.no_grad()
def test_any_sizes_come_back_exactly(widths: list[int]) -> None:
    torch.manual_seed(0)
    model, x = Unseen(widths), torch.randn(3, widths[0])
    rewritten = kx.factorize(model, rank="full", init="nearest")
    assert len(kx.factors(rewritten)) == len(widths) - 1
    torch.testing.assert_close(rewritten(x), model(x), **CLOSE)
    torch.testing.assert_close(kx.fold(rewritten)(x), model(x), **CLOSE)


def test_block_sparse_weights_come_in_exactly_zero_blocks_included() -> None:
    torch.manual_seed(0)
    model = nn.Linear(24, 36)
    mask = (torch.rand(9, 8) < 0.3).float()
    with torch.no_grad():
        model.weight.mul_(torch.kron(mask, torch.ones(4, 3)))
    factored = kx.factorize(model, rank="full", block=(4, 3), init="nearest")
    folded = kx.fold(factored)
    assert kx.inspect(folded).zero_blocks == int((mask == 0).sum())
    torch.testing.assert_close(folded.weight, model.weight, **CLOSE)
    assert torch.equal(folded.weight == 0, model.weight == 0)


def test_modes_survive_the_trace() -> None:
    torch.manual_seed(0)
    model = kx.factorize(models.Functional())
    x = torch.randn(4, 18)
    assert not torch.equal(model.train()(x), model(x)), "dropout is off in training"
    assert torch.equal(model.eval()(x), model(x)), "dropout is on in evaluation"
    assert model.hidden_size == 31


def test_keys_of_what_is_left_alone_keep_their_names() -> None:
    model = models.Functional()
    left = set(model.state_dict()) - {"w1", "w2", "fc.weight", "unused.weight"}
    assert left <= set(kx.factorize(model, rank=1).state_dict())
    assert set(models.Odd().state_dict()) == set(kx.fold(kx.factorize(models.Odd())).state_dict())


def test_hooks_bias_and_gradients_pass_to_the_new_layer() -> None:
    model = models.Odd()
    seen: list[str] = []
    model.first.register_forward_hook(lambda *_: seen.append("forward"))
    model.first.weight.requires_grad_(False)
    bias = model.first.bias
    factored = kx.factorize(model, inplace=True)
    factored(torch.randn(2, 37))
    assert seen == ["forward"]
    assert factored is model
    assert factored.first.bias is bias
    assert not any(p.requires_grad for p in (factored.first.S, factored.first.A, factored.first.B))
    assert factored.second.S.requires_grad


def test_copies_and_pickles_compute_the_same() -> None:
    torch.manual_seed(0)
    factored = kx.factorize(models.Odd())
    x = torch.randn(3, 37)
    for twin in (copy.deepcopy(factored), pickle.loads(pickle.dumps(factored))):
        assert torch.equal(twin(x), factored(x))
        assert torch.equal(kx.fold(twin)(x), kx.fold(factored)(x))


def reasons(model: nn.Module) -> dict[str, str]:
    return {refusal.site: refusal.reason for refusal in kx.plan(model).refusals}


def test_refusals_say_why() -> None:
    assert reasons(models.Tied()) == {
        "embedding": "tied to head.weight: factors of one would not be the other's (untie=True accepts that)",
        "head": "tied to embedding.weight: factors of one would not be the other's (untie=True accepts that)",
    }
    assert "if input.dim() not in (2, 3):" in reasons(nn.LSTM(16, 16))["weight_ih_l0"]
    assert "used 2 times" in reasons(models.Twice())["w"]
    assert "uninitialized" in reasons(nn.Sequential(nn.LazyLinear(4)))["0"]
    assert "complex64" in reasons(nn.Linear(32, 32, dtype=torch.complex64))["weight"]
    assert "too small to win" in reasons(nn.Linear(2, 3))["weight"]
    assert "no useful divisor" in reasons(nn.Linear(2, 3))["weight"]
    assert reasons(kx.factorize(nn.Sequential(nn.Linear(64, 64)))) == {"0": "already factored"}


def test_a_shared_layer_is_rewritten_once() -> None:
    factored = kx.factorize(models.Shared())
    assert factored.layer is factored.again
    assert isinstance(factored.layer, KroneckerLinear)
    assert set(kx.factors(factored)) == {"layer", "out"}
    assert kx.fold(factored).layer is not factored.layer


def test_a_graph_module_is_rewritten_in_its_own_graph() -> None:
    traced = fx.symbolic_trace(models.Functional().eval())
    factored = kx.factorize(traced)
    assert isinstance(factored, fx.GraphModule)
    assert {n.meta["kronfx"] for n in factored.graph.nodes if "kronfx" in n.meta} == {"w1", "fc", "w2"}
    assert not any(n.target is torch._C._nn.linear for n in factored.graph.nodes)
    factored.graph.lint()


def test_nothing_to_rewrite_is_said_once_and_harmless() -> None:
    with pytest.warns(UserWarning, match="rewrote nothing.*no weight"):
        kx.factorize(nn.ReLU())
    with pytest.warns(UserWarning, match="already factored"):
        kx.factorize(kx.factorize(nn.Linear(64, 64)))


def test_in_place_all_or_nothing() -> None:
    model = models.Odd()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    with pytest.raises(kx.KronfxError, match=r"^factorize: head \(11x45\): NaN or infinite weights; needed"):
        kx.factorize(model, init="nearest", inplace=True)
    assert type(model.first) is nn.Linear


def test_bad_input_is_a_sentence() -> None:
    plan = kx.plan(models.Odd())
    meta = nn.Linear(16, 16, device="meta")
    with pytest.raises(
        kx.KronfxError, match=r"^factorize: first \(53x37\): the plan names a site .*; needed .*; plan this"
    ):
        kx.factorize(models.Shared(), plan)
    other = models.Odd()
    other.first = nn.Linear(38, 53)
    with pytest.raises(kx.KronfxError, match="this model's weight is 53x38; needed the planned size"):
        kx.factorize(other, plan)
    with pytest.raises(kx.KronfxError, match="a Linear where the model belongs|a str where the model belongs"):
        kx.factorize("model")  # type: ignore[arg-type]
    with pytest.raises(kx.KronfxError, match="'random', 'nearest' or 'calibrated'"):
        kx.factorize(models.Odd(), init="zeros")  # type: ignore[arg-type]
    with pytest.raises(kx.KronfxError, match="meta device; needed values to factor"):
        kx.factorize(meta, init="nearest")
    with pytest.raises(kx.KronfxError, match="fold: weight .*meta device"):
        kx.fold(kx.factorize(meta))
    with pytest.raises(kx.KronfxError, match="fold: no factored layer"):
        kx.fold(models.Odd())
    with pytest.raises(kx.KronfxError, match="threshold=-1"):
        kx.fold(kx.factorize(models.Odd()), threshold=-1)
    with pytest.raises(kx.KronfxError, match="a plan and the options rank"):
        kx.factorize(models.Odd(), plan, rank=2)
    broken = kx.factorize(models.Odd())
    with torch.no_grad():
        broken.first.A[0, 0, 0] = float("inf")
    with pytest.raises(kx.KronfxError, match=r"fold: first \(53x37\): NaN or infinite factors"):
        kx.fold(broken)
    with pytest.raises(kx.KronfxError, match=r"symbolic tracing stops at models.py:\d+ `if x.sum\(\) > 0:`"):
        kx.graph(models.Branching())
    with pytest.raises(kx.KronfxError, match="torch.export says"):
        kx.graph(models.Branching(), torch.randn(2, 8))


def test_fold_threshold_prunes_by_s() -> None:
    torch.manual_seed(0)
    factored = kx.factorize(nn.Linear(16, 16), block=(4, 4), rank=2)
    with torch.no_grad():
        factored.S.copy_(torch.linspace(0, 1, 16).reshape(4, 4))
    assert kx.inspect(kx.fold(factored)).zero_blocks == 1
    assert kx.inspect(kx.fold(factored, threshold=0.5)).zero_blocks == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = models.Odd().to(dtype), torch.randn(3, 37).to(dtype)
    rewritten = kx.factorize(model, rank="full", init="nearest")
    assert {p.dtype for p in rewritten.parameters()} == {dtype}
    tolerance = 40 * torch.finfo(dtype).eps  # a few roundings of factors, products and outputs of order 1
    torch.testing.assert_close(rewritten(x), model(x), rtol=tolerance, atol=tolerance)
    assert kx.fold(rewritten)(x).dtype == dtype
