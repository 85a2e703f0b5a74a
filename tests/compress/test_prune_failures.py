"""What prune says of batches, losses, options and models that it cannot work with; nothing has changed then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import mlp
from torch import Tensor, nn

import kronfx as kx
from kronfx.compress import calibration


def batches(n: int = 8) -> list[Tensor]:
    return [torch.randn(10, n) for _ in range(2)]


def used_up() -> Any:
    generator = iter(batches())
    list(generator)
    return generator


def nan() -> list[Tensor]:
    return [torch.full((3, 8), torch.nan)]


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        (batches(5), {}, r"a batch that the model does not take \(RuntimeError: .*\); needed one it takes; pass what"),
        ([], {}, "no batch; needed calibration data; pass a list"),
        (used_up(), {}, r"no batch \(a generator is read once: it may have been used up\)"),
        (torch.randn(3, 8), {}, "batches of type Tensor; needed an iterable of batches"),
        (7, {}, "batches of type int"),
        (nan(), {}, r"0 \(12x8\): NaN or infinite inputs or gradients in the calibration batches"),
        (batches(), {"loss": lambda m, b: m(b).detach().mean()}, "loss= that returns a tensor without a gradient"),
        (batches(), {"loss": lambda m, b: m(b)}, "loss= that returns a tensor of 40 entries; needed a scalar"),
        (batches(), {"loss": lambda *_: 1.0}, "loss= that returns a float"),
        (batches(), {"loss": lambda m, b: m(b[0], b[1])}, r"a batch on which loss= stops \(TypeError"),
        (batches(), {"loss": 3}, "loss of type int"),
        (batches(), {"target": 1.0}, "target=1.0; needed the share of blocks that become zero, between 0 and 1"),
        (batches(), {"target": 0.9, "floor": 0.5}, "target=0.9 of 18 blocks, of which 9 may go; needed a share"),
        (batches(), {"target": {"nothing": 0.5}}, "target names 'nothing', which is no linear map of this model"),
        (batches(), {"include": "head"}, "include names 'head', which is no linear map"),
        (batches(), {"block": (64, 64)}, "nothing to prune: smaller than one block of 64x64"),
        (batches(), {"block": 16}, r"block=16; needed a pair \(m2, n2\)"),
        (batches(), {"how": "best"}, "how='best'; needed one of 'obs', 'energy'"),
        (batches(), {"shares": "equal"}, "shares='equal'; needed one of 'global', 'uniform', 'rows'"),
        (batches(), {"damping": 0}, "damping=0, with which inputs that never vary have no inverse"),
        (batches(), {"memory": -1}, "memory=-1; needed a whole number"),
    ],
)
def test_a_sentence(given: Any, options: dict[str, Any], sentence: str) -> None:
    model = mlp(8, 12, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(kx.KronfxError, match=f"^prune: (?:0 .12x8.: )?{sentence}"):
        kx.prune(model, given, **{"block": (4, 2), "target": 0.5} | options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_module() -> None:
    with pytest.raises(kx.KronfxError, match=r"^prune: a list where the model belongs"):
        kx.prune([], batches())  # type: ignore[arg-type]


def test_a_model_without_maps() -> None:
    with pytest.raises(kx.KronfxError, match=r"^prune: nothing to prune: it has no weight of two dimensions"):
        kx.prune(nn.Sequential(nn.LayerNorm(8)), batches())


def test_a_model_that_returns_nothing_to_weigh_by() -> None:
    class Silent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> list[int]:
            return self.layer(x).argmax(-1).tolist()

    with pytest.raises(
        kx.KronfxError, match=r"returns no tensor of floats \(list\); needed outputs; the keyword loss="
    ):
        kx.prune(Silent(), batches(), block=(4, 4))
    kx.prune(Silent(), batches(), block=(4, 4), how="energy")


@pytest.mark.parametrize("call", [0, 3, 7])
def test_an_interruption_leaves_the_model_as_it_was(call: int) -> None:
    """In the first forward, the last of the calibration, and while what is left is set anew on the prefix."""
    model, calls = mlp(8, 12, 4).train(), iter(range(100))
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def interrupted(model: nn.Module, batch: Tensor) -> Tensor:
        if next(calls) == call:
            raise KeyboardInterrupt
        return model(batch).square().mean()

    with pytest.raises(KeyboardInterrupt):
        kx.prune(model, batches(), block=(4, 4), loss=interrupted)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_measuring_leaves_modes_and_gradients_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).train()
    model[0].weight.requires_grad_(False)
    with calibration.measured(model):
        assert not model[1].training
        assert not any(p.requires_grad for p in model.parameters())
    assert model[1].training
    assert [p.requires_grad for p in model.parameters()] == [False, True]


def test_a_model_without_values_is_told() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(16, 16))
    sentence = (
        "0.weight: a tensor on the meta device, which holds no values; needed real values; load the weights first"
    )
    with pytest.raises(kx.KronfxError, match=f"^prune: {sentence}"):
        kx.prune(model, [torch.randn(4, 16)])
    with pytest.raises(kx.KronfxError, match=f"^recover: {sentence}"):
        kx.recover(model, nn.Sequential(nn.Linear(16, 16)), [torch.randn(4, 16)])
