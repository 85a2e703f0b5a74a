"""Pattern selection: the terms in closed form, the right pattern survives, losers leave model and optimizer."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from models import Branching, mlp
from oracles import dense, summed
from torch import Tensor, nn
from training import BLOCKS, fit, idle_optimizer, regression, teacher, with_candidates

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear, candidates_of, factored_sites
from kronfx.train import LayerwisePatternSelection, PatternSelection

EXACT = 1e-10  # relative, float64: sums of at most some hundred products
CLOSE = 1e-5  # float32, the same sums


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_pattern_that_made_the_weight_survives(block: tuple[int, int], kind: str) -> None:
    model, W = with_candidates(), teacher(block, 0)
    optimizer = (
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if kind == "sgd"
        else torch.optim.Adam(model.parameters(), lr=0.003)
    )
    selection = PatternSelection(model, strength=0.0, optimizer=optimizer, growth=1.01)
    steps = regression(model, W, selection, optimizer, 1500 if kind == "adam" else 600)
    assert any(selection.selected is not None for _ in steps)  # and no further
    assert selection.selected == block
    assert type(model[0]) is KroneckerLinear
    assert model[0].shape.block == block


def test_the_group_term_is_the_norm_of_whole_patterns() -> None:
    """``lambda1 sum_k sqrt(sum_l ||W^(l,k)||^2)``, each layer in units of its candidates' mean norm at the start."""
    torch.manual_seed(0)
    model = kx.factorize(mlp(8, 12, 16).double(), rank=2, block=[(2, 2), (4, 4)])
    selection = PatternSelection(model, strength=0.0, group=0.7)
    layers = [candidates_of(site) for site in factored_sites(model).values()]
    squares = [[float(dense(x.S, x.A, x.B).square().sum()) for x in layer] for layer in layers]
    shares = [[2 * s / sum(layer) for s in layer] for layer in squares]
    wanted = [((a + b) / 2) ** 0.5 for a, b in zip(*shares)]
    assert list(selection.norms()) == ["2x2", "4x4"]
    assert list(selection.norms().values()) == pytest.approx(wanted, rel=EXACT)
    assert float(selection.penalty()) == pytest.approx(0.7 * sum(wanted), rel=EXACT)


def test_the_gradient_of_the_group_term() -> None:
    """Against a difference quotient of the norm of the explicit weights."""
    model = with_candidates(2, dtype=torch.float64)
    selection = PatternSelection(model, strength=0.0, group=1.0)
    layers = candidates_of(model[0])
    unit = sum(float(x.weight.detach().square().sum()) for x in layers) / 3
    selection.penalty().backward()

    def value(B: Tensor) -> float:
        return float((dense(layers[1].S, layers[1].A, B).square().sum() / unit).sqrt())

    B, step = layers[1].B.detach(), 1e-6
    nudge = torch.zeros_like(B)
    nudge[1, 2, 3] = step
    quotient = (value(B + nudge) - value(B - nudge)) / (2 * step)
    assert float(layers[1].B.grad[1, 2, 3]) == pytest.approx(quotient, rel=1e-6)  # central: step^2, and eps / step


def test_l1_is_a_soft_threshold_at_a_held_scale() -> None:
    model = with_candidates(dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    selection = PatternSelection(model, strength=0.1, group=0.0, optimizer=optimizer)
    S = [x.S.detach().clone() for x in candidates_of(model[0])]
    weights = [x.weight.detach() for x in candidates_of(model[0])]
    (0.0 * model(torch.ones(1, 16, dtype=torch.float64)).sum() + selection.penalty()).backward()
    optimizer.step()
    selection.step()
    for layer, before, W in zip(candidates_of(model[0]), S, weights):
        share = (before.sign() * (before.abs() - 0.05).clamp_min(0) / before).repeat_interleave(layer.shape.m2, 0)
        wanted = W * share.repeat_interleave(layer.shape.n2, 1)
        torch.testing.assert_close(layer.weight.detach(), wanted, rtol=EXACT, atol=EXACT)
        assert float(layer.S.square().mean()) == pytest.approx(1, rel=EXACT)


def _lose(model: nn.Module, site: str, k: int) -> None:
    """Make a candidate all but zero, and let one step of training find it."""
    with torch.no_grad():
        candidates_of(factored_sites(model)[site])[k].A.mul_(1e-4)


def _train_once(model: nn.Module, selection: PatternSelection, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    (model(x).square().mean() + selection.penalty()).backward()
    optimizer.step()
    selection.step()


def test_a_loser_leaves_the_model_and_the_optimizer_at_every_layer() -> None:
    torch.manual_seed(0)
    model = kx.factorize(mlp(8, 8, 8), rank=1, block=[(2, 2), (4, 4), (2, 4)])
    biases = [parameter for name, parameter in model.named_parameters() if name.endswith("bias")]
    others = [parameter for name, parameter in model.named_parameters() if not name.endswith("bias")]
    optimizer = torch.optim.Adam([{"params": others}, {"params": biases, "lr": 0.1}], lr=1e-3)
    selection = PatternSelection(model, optimizer=optimizer)
    x = torch.randn(4, 8)
    _train_once(model, selection, optimizer, x)
    hooked = []
    model[0].register_forward_hook(lambda *_: hooked.append(1))
    for layers in (("0", "2"), ("0", "2")):
        for site in layers:
            _lose(model, site, 0)
        before = sum(p.numel() for p in model.parameters())
        _train_once(model, selection, optimizer, x)
        assert sum(p.numel() for p in model.parameters()) < before
    assert selection.selected == (2, 4)
    assert [type(model[0]), type(model[2])] == [KroneckerLinear] * 2
    assert hooked, "hooks stay with the layer"
    left = list(model.parameters())
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in left}
    assert {id(p) for p in optimizer.state} == {id(p) for p in left}
    assert [len(g["params"]) for g in optimizer.param_groups] == [6, 2]
    again = torch.optim.Adam([p for n, p in model.named_parameters() if not n.endswith("bias")])
    assert [p.shape for p in again.param_groups[0]["params"]] == [p.shape for p in optimizer.param_groups[0]["params"]]
    _train_once(model, selection, optimizer, x)


def test_what_is_left_is_an_ordinary_factored_model(tmp_path: Path) -> None:
    model = with_candidates()
    optimizer = idle_optimizer(model)
    selection = PatternSelection(model, optimizer=optimizer)
    kept = summed([candidates_of(model[0])[2]])
    for _ in range(2):
        _lose(model, "0", 0)
        selection.penalty()
        optimizer.step()
        selection.step()
    assert selection.selected == (8, 8)
    x = torch.randn(3, 16)
    folded = kx.fold(model)
    # The L1 step has scaled W^(k) by at most 2 lr strength = 2e-5 since.
    torch.testing.assert_close(folded[0].weight, kept, rtol=1e-4, atol=1e-6)
    assert list(kx.factors(model)) == ["0"]
    assert [layer.block for layer in kx.inspect(model).layers] == [(8, 8)]
    kx.save(model, tmp_path / "saved")
    loaded = kx.load(nn.Sequential(nn.Linear(16, 16)), tmp_path / "saved")
    assert torch.equal(loaded(x), model(x))
    assert list(loaded.state_dict()) == list(model.state_dict()) == ["0.S", "0.A", "0.B", "0.bias"]
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    kx.export_onnx(model, tmp_path / "model.onnx", x)


def test_an_owner_that_keeps_its_forward_holds_candidates_too() -> None:
    torch.manual_seed(0)
    model = kx.factorize(Branching(), rank=1, block=[(2, 2), (4, 4)], include="w")
    x = torch.ones(1, 8)
    torch.testing.assert_close(
        model(x), x @ summed(candidates_of(factored_sites(model)["w"])).T, rtol=CLOSE, atol=CLOSE
    )
    torch.testing.assert_close(kx.fold(model)(x), model(x), rtol=CLOSE, atol=CLOSE)
    optimizer = idle_optimizer(model)
    selection = PatternSelection(model)  # it finds the optimizer
    _lose(model, "w", 0)
    selection.penalty()
    optimizer.step()
    selection.step()
    assert selection.optimizer is optimizer
    assert selection.selected == (4, 4)
    W = summed(candidates_of(factored_sites(model)["w"]))
    torch.testing.assert_close(model.w.detach(), W, rtol=CLOSE, atol=CLOSE)


def test_every_layer_may_select_for_itself() -> None:
    torch.manual_seed(0)
    model = kx.factorize(mlp(8, 8, 8), rank=1, block={"0": [(2, 2), (4, 4)], "2": [(2, 2), (4, 4), (2, 4)]})
    with pytest.raises(TrainError, match="3 candidates, and 2 at 0"):
        PatternSelection(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    selection = LayerwisePatternSelection(model, optimizer=optimizer)
    for site, k in (("0", 0), ("2", 2), ("2", 1)):
        assert selection.selected is None
        _lose(model, site, k)
        _train_once(model, selection, optimizer, torch.randn(4, 8))
    assert selection.selected == {"0": (4, 4), "2": (2, 2)}


def test_all_collapsing_warns_eases_off_and_leaves_a_model() -> None:
    """A group term far too strong for the task: without easing off every norm goes to zero."""
    model, W = with_candidates(), teacher((4, 4), 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    selection = PatternSelection(model, strength=0.0, group=100.0, optimizer=optimizer)
    with pytest.warns(UserWarning, match="all patterns are collapsing"):
        fit(model, W, selection, optimizer, 1500)
    assert float(summed(candidates_of(model[0])).norm()) > 0.5 * float(W.norm())


def test_a_loss_without_the_penalty_is_told_once() -> None:
    model = with_candidates()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    selection = PatternSelection(model, optimizer=optimizer)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            model(torch.ones(1, 16)).sum().backward()
            optimizer.step()
            selection.step()
    assert [str(w.message).partition(";")[0] for w in caught if "group term" in str(w.message)] == [
        "train: the group term is in no loss, so that no pattern can lose"
    ]
