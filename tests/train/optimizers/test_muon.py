"""KroneckerMuon: its matrices, its step against the formula in float64, and torch's own optimizer interface."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import kronfx as kx
from kronfx import kron
from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear, kronecker_layers
from kronfx.records import KroneckerShape
from kronfx.train import KroneckerMuon
from kronfx.train.optimizers.muon import orthogonalized, spectral_norm
from kronfx.train.optimizers.stacked import Stacking, fans

SIZES = st.integers(1, 7)
DIMS = st.tuples(SIZES, SIZES, SIZES, SIZES)


def layer_of(dims: tuple[int, int, int, int], rank: int, evaluation: str) -> KroneckerLinear:
    return KroneckerLinear(KroneckerShape(*dims), rank, evaluation, bias=False, dtype=torch.float64)  # type: ignore[arg-type]


@given(DIMS, st.integers(1, 3))
def test_stacked_factors_are_the_operands_of_the_products(dims: tuple[int, int, int, int], rank: int) -> None:
    for evaluation, operands in (("a_first", kron.a_first_operands), ("b_first", kron.b_first_operands)):
        layer = layer_of(dims, rank, evaluation)
        stack = Stacking(layer.evaluation, rank)
        left, right = operands(layer.S, layer.A, layer.B)
        assert torch.equal(stack.of_A(layer.A), left)
        assert torch.equal(stack.of_B(layer.B), right.T)
        assert torch.equal(stack.to_A(stack.of_A(layer.A)), layer.A)
        assert torch.equal(stack.to_B(stack.of_B(layer.B)), layer.B)
        assert fans(layer) == (left.shape[::-1], right.shape)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_the_spectral_norm_is_bounded_by_its_16_norm(rows: int, columns: int, seed: int) -> None:
    M = torch.randn(2, rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    wanted = torch.linalg.matrix_norm(M, 2)
    found = spectral_norm(M) / wanted
    assert bool((found > 1 - 1e-9).all())
    assert bool((found < min(rows, columns) ** (1 / 16) + 1e-9).all())


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_orthogonalized_keeps_the_singular_vectors(rows: int, columns: int, seed: int) -> None:
    G = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    U, singular, Vh = torch.linalg.svd(G, full_matrices=False)
    core = U.T @ orthogonalized(G) @ Vh.T
    assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-9)
    large = core.diagonal()[singular > 1e-2 * torch.linalg.vector_norm(singular)]
    assert float(large.min()) > 0.67
    assert float(large.max()) < 1.21


@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 3)])
def test_zeros_stay_zeros(shape: tuple[int, ...]) -> None:
    assert not orthogonalized(torch.zeros(shape)).any()
    assert not spectral_norm(torch.zeros(shape)).any()


@given(DIMS, st.integers(1, 3), st.sampled_from(["a_first", "b_first", "materialize"]))
def test_a_step_is_the_formula(dims: tuple[int, int, int, int], rank: int, evaluation: str) -> None:
    """Momentum twice over, against singular value decompositions: to the accuracy of the two iterations, stated."""
    torch.manual_seed(0)
    layer = layer_of(dims, rank, evaluation)
    muon = KroneckerMuon(nn.ModuleList([layer]), lr=0.1, momentum=0.5, weight_decay=0.3)
    moments = [torch.zeros_like(layer.A), torch.zeros_like(layer.B)]
    for _ in range(2):
        before = layer.A.detach().clone(), layer.B.detach().clone()
        gradients = [torch.randn_like(layer.A), torch.randn_like(layer.B)]
        layer.A.grad, layer.B.grad = (gradient.clone() for gradient in gradients)
        moments = [0.5 * moment + gradient for moment, gradient in zip(moments, gradients)]
        muon.step()
        _, A_s, B_s = _stacked(layer, *before)
        norms = [float(torch.linalg.matrix_norm(matrix, 2)) for matrix in (A_s, B_s)]
        for side, factor in enumerate((layer.A, layer.B)):
            moved = (factor.detach() - (1 - 0.05 * 0.3) * before[side]).flatten()
            wish = gradients[side] + 0.5 * moments[side]
            wishes = [torch.zeros_like(before[0]), torch.zeros_like(before[1])]
            wishes[side] = wish
            matrix = _stacked(layer, *wishes)[1 + side]
            U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
            unit = _unstacked(layer, U @ Vh, side, factor)
            divisor = max(norms[1 - side], 0.25 * norms[side])
            wanted = -0.05 * math.sqrt(max(1, layer.out_features / layer.in_features)) / divisor * unit.flatten()
            rank_of = min(matrix.shape)
            assert float(moved @ wanted) > 0.6 * float(wanted @ wanted) / rank_of ** (1 / 16)
            assert float(moved.norm()) < 1.21 * float(wanted.norm())


def _stacked(layer: KroneckerLinear, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    operands = kron.b_first_operands if layer.evaluation == "b_first" else kron.a_first_operands
    left, right = operands(torch.ones_like(layer.S), A, B)
    return layer.S, left, right.T


def _unstacked(layer: KroneckerLinear, matrix: Tensor, side: int, factor: Tensor) -> Tensor:
    """By an exact search: where each entry of the factor went."""
    numbers = torch.arange(factor.numel(), dtype=torch.float64).reshape(factor.shape)
    both = [torch.zeros_like(layer.A.detach()), torch.zeros_like(layer.B.detach())]
    both[side] = numbers
    places = _stacked(layer, *both)[1 + side].flatten().long()
    found = torch.empty(factor.numel(), dtype=torch.float64)
    found[places] = matrix.flatten()
    return found.reshape(factor.shape)


class Net(nn.Module):
    """A residual branch, a convolution, and what is no map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.down = nn.Conv1d(4, 12, 3, padding=1), nn.Linear(12, 24), nn.Linear(24, 12)
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).mT
        return y + self.down(F.gelu(self.up(self.norm(y))))


def model_and_data() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return kx.factorize(Net(), rank=2), torch.randn(8, 4, 6), torch.randn(8, 6, 12)


def steps(model: nn.Module, optimizers: list[torch.optim.Optimizer], x: Tensor, y: Tensor, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        loss = F.mse_loss(model(x), y)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_it_trains_beside_another_optimizer_from_a_start_at_zero() -> None:
    model, x, y = model_and_data()
    assert not kx.factors(model)["down"].materialize().any()
    muon = KroneckerMuon(model, lr=0.05)
    rest = muon.rest(model)
    mine = [p for group in muon.param_groups for p in group["params"]]
    assert {id(p) for p in [*rest, *mine]} == {id(p) for p in model.parameters()}
    assert len(rest) + len(mine) == len(list(model.parameters()))
    losses = steps(model, [muon, torch.optim.AdamW(rest, lr=1e-2)], x, y, 60)
    assert losses[-1] < 0.5 * losses[0]
    assert kx.factors(model)["down"].materialize().any()


def test_a_step_moves_the_weight_by_about_the_rate() -> None:
    model, x, y = model_and_data()
    muon = KroneckerMuon(model, lr=0.02, momentum=0.0)
    for _ in range(3):
        before = {name: f.materialize().detach() for name, f in kx.factors(model).items()}
        steps(model, [muon], x, y, 1)
        for name, f in kx.factors(model).items():
            moved = float(torch.linalg.matrix_norm(f.materialize().detach() - before[name], 2))
            stretch = math.sqrt(max(1, f.shape.m / f.shape.n))
            assert moved < 1.5 * 0.02 * stretch  # both sides, singular values up to 1.21, and their product
            assert moved > 0 or name == "up"  # behind a branch that is zero there is no gradient yet


def test_saved_and_resumed_it_comes_to_the_same_numbers() -> None:
    model, x, y = model_and_data()
    muon = KroneckerMuon(model, lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(muon, 10)
    steps(model, [muon], x, y, 3)
    schedule.step()
    twin, _, _ = model_and_data()
    twin.load_state_dict(model.state_dict())
    resumed = KroneckerMuon(twin, lr=1.0)
    resumed.load_state_dict(pickle.loads(pickle.dumps(muon.state_dict())))
    both = copy.deepcopy((model, muon))
    wanted = steps(model, [muon], x, y, 3)
    assert steps(twin, [resumed], x, y, 3) == wanted
    assert steps(both[0], [both[1]], x, y, 3) == wanted


def test_groups_have_their_own_rates_and_frozen_factors_stay() -> None:
    model, x, y = model_and_data()
    kronecker_layers(model)["up"].A.requires_grad_(False)
    still = {name: value.clone() for name, value in model.state_dict().items()}
    muon = KroneckerMuon([{"params": model.conv, "lr": 0.1}, {"params": model.up}], lr=0.0)
    steps(model, [muon], x, y, 2)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, still[name])}
    assert moved == {"conv.A", "conv.B"}


def test_bad_input_is_a_sentence() -> None:
    model, _, _ = model_and_data()
    with pytest.raises(TrainError, match="no layer of the model is factored.*kronfx.factorize"):
        KroneckerMuon(Net())
    with pytest.raises(TrainError, match=r"conv \(12x12\): a layer in two groups"):
        KroneckerMuon([{"params": model}, {"params": nn.ModuleDict({"conv": model.conv})}])
    with pytest.raises(TrainError, match="a list where the model belongs"):
        KroneckerMuon([{"params": list(model.parameters())}])
    for wrong in (-1.0, math.nan, "fast"):
        with pytest.raises(TrainError, match="lr=.*a finite lr of 0 or more"):
            KroneckerMuon(model, lr=wrong)  # type: ignore[arg-type]
