"""What goes along with a training: averages of its weights, 16-bit parameters, the trainer's best checkpoint."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import kronfx as kx
from kronfx.errors import TrainError
from kronfx.layers import kronecker_layers
from kronfx.train import Blocks, BlockSparsity, GroupLasso, MagnitudePruning
from kronfx.train.parts.carry import Carry

STEPS = 60


def dense(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).to(dtype)


def factored(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return kx.factorize(dense(dtype), rank=2, block=(4, 4))


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(64, 16, generator=generator).to(dtype), torch.randint(0, 4, (64,), generator=generator)


def train(model: nn.Module, penalty: Any, steps: int = STEPS, average: Any = None, dtype: Any = torch.float32) -> None:
    x, y = batch(dtype)
    for _ in range(steps):
        loss = F.cross_entropy(model(x).float(), y)
        penalty.optimizer.zero_grad()
        loss.backward()
        penalty.optimizer.step()
        penalty.step()
        if average is not None:
            average.update_parameters(model)


def adam(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr)


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Which blocks of every layer's ``W`` are zero, whatever made them so."""
    found = {}
    for site, factors in kx.factors(model).items():
        shape = factors.shape
        tiles = factors.materialize().detach().unflatten(0, (shape.m1, shape.m2)).unflatten(-1, (shape.n1, shape.n2))
        found[site] = ~tiles.ne(0).any(dim=-1).any(dim=1)
    return found


def assert_same_zeros(found: nn.Module, wanted: nn.Module) -> None:
    assert zeros(found).keys() == zeros(wanted).keys()
    assert all(torch.equal(mask, zeros(wanted)[site]) for site, mask in zeros(found).items())


AVERAGES = {
    "exponential": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95)),
    "SWA": AveragedModel,
    "by hand, in float64": lambda model: AveragedModel(copy.deepcopy(model).double()),
}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("frozen", [True, False])
def test_the_zeros_go_into_an_average(name: str, frozen: bool) -> None:
    model = factored()
    average = AVERAGES[name](model)
    sparsity = BlockSparsity(model, target=0.5, strength=4.0, optimizer=adam(model))
    train(model, sparsity, average=average)
    if frozen:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sparsity.freeze()
    assert sparsity.sparsity() > 0.2
    assert not any(mask.any() for mask in zeros(average).values())
    before = {site: factors.materialize() for site, factors in kx.factors(average).items()}
    sparsity.apply_to(average)
    assert_same_zeros(average, model)
    for site, factors in kx.factors(average).items():  # what is not zero is as it was
        kept = factors.materialize().ne(0)
        assert torch.equal(factors.materialize()[kept], before[site][kept])
    assert [row.zero_blocks for row in kx.inspect(kx.fold(average.module)).layers] == [
        int(mask.sum()) for mask in zeros(model).values()
    ]


def test_a_wrapped_model_and_a_bare_average() -> None:
    model = factored()
    wrapped, average = DataParallel(model), copy.deepcopy(model)
    sparsity = BlockSparsity(wrapped, target=0.5, strength=4.0, optimizer=adam(model))
    train(model, sparsity)
    sparsity.apply_to(average)
    assert_same_zeros(average, model)


def test_dense_baselines_have_it_too() -> None:
    for build in (
        lambda model: GroupLasso(model, Blocks(4, 4), strength=10.0, optimizer=adam(model)),
        lambda model: MagnitudePruning(model, Blocks(4, 4), share=0.5, optimizer=adam(model)),
    ):
        model = dense()
        average = AveragedModel(model)
        penalty = build(model)
        train(model, penalty, average=average)
        assert penalty.sparsity() > 0.2
        penalty.apply_to(average)
        for name in ("0", "2"):
            gone = model.get_submodule(name).weight == 0
            assert gone.any()
            assert not average.module.get_submodule(name).weight[gone].any()


def test_another_model_is_refused_and_left_as_it_was() -> None:
    model = factored()
    sparsity = BlockSparsity(model, target=0.5, strength=4.0, optimizer=adam(model))
    train(model, sparsity)
    others = kx.factorize(dense(), rank=1, block=(4, 4)), kx.factorize(dense(), rank=2, block={"0": (4, 4)}), dense()
    for other in others:
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(TrainError, match="nothing of this name and size; needed a copy or an average"):
            sparsity.apply_to(other)
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_bfloat16_shrinks_as_far_as_float32(kind: str) -> None:
    """Ten steps of 0.0005 from numbers near 1: each alone is lost to rounding, together they are not."""
    sums = []
    for dtype in (torch.float32, torch.bfloat16):
        model = factored(dtype) if kind == "factored" else dense(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        if kind == "factored":
            spread = torch.linspace(0.5, 1.5, 32).to(torch.bfloat16)
            kronecker_layers(model)["0"].S.data.copy_(spread.reshape(8, 4))
            penalty: Any = BlockSparsity(model, strength=0.0005, optimizer=optimizer)
        else:
            model.get_submodule("0").weight.data.fill_(1.0)
            penalty = GroupLasso(model, Blocks(1, 1), strength=0.0005, optimizer=optimizer)
        for _ in range(40):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            penalty.step()
        weight = kx.factors(model)["0"].S if kind == "factored" else model.get_submodule("0").weight
        sums.append(weight.detach().float())
    moved = 1 - sums[0].min() if kind == "dense" else (sums[0].max() - sums[0].min()) - 1
    assert abs(float(moved)) > 0.01
    torch.testing.assert_close(sums[1], sums[0], rtol=2**-8, atol=0)  # half a unit in the last of 8 bits


def test_a_state_holds_what_rounding_took() -> None:
    """A resumed training comes to the same numbers, in 16 bits too."""
    model = factored(torch.bfloat16)
    penalty = BlockSparsity(model, strength=0.1, optimizer=adam(model))
    train(model, penalty, 20, dtype=torch.bfloat16)
    assert penalty.state_dict()["rests"]
    twin = copy.deepcopy(model)
    resumed = BlockSparsity(twin, strength=0.1, optimizer=adam(twin))
    resumed.optimizer.load_state_dict(copy.deepcopy(penalty.optimizer.state_dict()))
    resumed.load_state_dict(penalty.state_dict())
    train(model, penalty, 20, dtype=torch.bfloat16)
    train(twin, resumed, 20, dtype=torch.bfloat16)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in twin.state_dict().items())
    assert not BlockSparsity(factored()).state_dict()["rests"]


def test_a_remainder_is_the_difference_to_what_a_parameter_can_hold() -> None:
    carry, parameter = Carry(), nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    value = torch.tensor([1.0, 0.9993, 0.5001])
    with torch.no_grad():
        carry.write("x", parameter, value)
        torch.testing.assert_close(carry.read("x", parameter), value, rtol=0, atol=1e-7)
        parameter.add_(1)  # an optimizer's step, in numbers that the type holds
        torch.testing.assert_close(carry.read("x", parameter), value + 1, rtol=0, atol=2**-8)


@pytest.mark.parametrize(("lr", "told"), [(0.001, 2), (0.02, 0)])
def test_steps_that_the_type_cannot_hold_are_told(lr: float, told: int) -> None:
    """``S`` has a root mean square of 1: bfloat16 loses what is below 0.002 there."""
    model = factored(torch.bfloat16)
    penalty = BlockSparsity(model, strength=0.01, optimizer=adam(model, lr))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        train(model, penalty, 101, dtype=torch.bfloat16)
    lines = [str(warning.message) for warning in said]
    assert len(lines) == told
    assert all("bfloat16 and holds no steps below 0.002" in line for line in lines)


def trainer(folder: Path, epochs: int, **options: Any) -> tuple[Any, nn.Module]:
    """A Trainer whose loss of evaluation only grows: its best checkpoint is the first that counts."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from kronfx.train.callbacks.transformers import BlockSparsityCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.evaluations = factored(), 0

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            loss = F.cross_entropy(self.body(x), labels)
            if not self.training:
                self.evaluations += 1
                loss = loss.detach() * 0 + self.evaluations
            return {"loss": loss, "logits": self.body(x)}

    x, y = batch()
    data = [{"x": row, "labels": label} for row, label in zip(x, y)]
    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        learning_rate=0.01,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        per_device_eval_batch_size=64,
    )
    model = Model()
    callbacks = [BlockSparsityCallback(**options)]
    return transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks), model


def test_the_best_checkpoint_is_one_that_has_the_zeros(tmp_path: Path) -> None:
    run, model = trainer(tmp_path, 6, target=0.5)
    run.train()
    assert int(str(run.state.best_model_checkpoint).rpartition("-")[2]) > 8  # not the first epoch's
    share = sum(int(mask.sum()) for mask in zeros(model).values()) / 40
    assert share == run.state.log_history[-1]["block_sparsity"] == 0.5


def test_a_best_checkpoint_with_fewer_zeros_is_told(tmp_path: Path) -> None:
    """Without a target no checkpoint is any better than another in that."""
    run, _ = trainer(tmp_path, 6, strength=lambda step: 40.0 * (step >= 16))
    with pytest.warns(UserWarning, match="the best checkpoint, now loaded, has .* pass a target"):
        run.train()
