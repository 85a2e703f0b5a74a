"""Names are the user's names: no wrapper's own child gets into a plan, a report, a state or a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DataParallel
from torch.optim.swa_utils import AveragedModel

import kronfx as kx
from kronfx.layers import named_modules, unwrapped, user_name


class Residual(nn.Module):
    """``module`` is a name that people give."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return x + self.module(x)


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 32), Residual(nn.Sequential(nn.Linear(32, 32))), nn.Linear(32, 8))


SITES = ["0", "1.module.0", "2"]


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


def part_by_part(model: nn.Module) -> nn.Module:
    """Each block in a wrapper of its own, two deep in the middle."""
    first, middle, last = model
    return nn.Sequential(compiled(first), checkpoint_wrapper(Residual(compiled(middle.module))), last)


def all_at_once(model: nn.Module) -> nn.Module:
    return compiled(DataParallel(compiled(part_by_part(model))))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "none": lambda model: model,
    "compile": compiled,
    "DataParallel": DataParallel,
    "average": AveragedModel,
    "checkpointing": checkpoint_wrapper,
    "part by part": part_by_part,
    "all at once": all_at_once,
}
every_wrapper = pytest.mark.parametrize("name", WRAPPERS)


@every_wrapper
def test_modules_have_the_names_of_the_users_model(name: str) -> None:
    model = dense()
    names = {module: path for path, module in model.named_modules()}
    found = {module: path for path, module in named_modules(WRAPPERS[name](model))}
    if name == "average":  # it holds a copy
        assert list(names.values()) == list(found.values())[1:]
        return
    kept = [module for module in names if module in found]  # "part by part" builds its containers anew
    assert len(kept) >= 3
    assert all(found[module] == names[module] for module in kept)


@every_wrapper
def test_a_wrapped_model_is_planned_described_and_trained_by_the_users_names(name: str) -> None:
    wrap = WRAPPERS[name]
    if name not in ("DataParallel", "all at once"):  # which are to be factorized first
        assert [choice.site.name for choice in kx.plan(wrap(dense()), rank=1).choices] == SITES
    factored = kx.factorize(dense(), rank=1)
    wrapped = wrap(factored)
    assert list(kx.factors(wrapped)) == SITES
    assert [layer.site for layer in kx.inspect(wrapped).layers] == SITES
    sparsity = kx.train.BlockSparsity(wrapped, target={"1.module.*": 0.5})
    kx.train.BlockSparsity(factored, target={"1.module.0": 0.5}).load_state_dict(sparsity.state_dict())
    assert set(sparsity.layers()) == set(SITES)


@every_wrapper
@pytest.mark.parametrize("folded", [False, True])
def test_a_folder_does_not_depend_on_the_wrapper(name: str, folded: bool, tmp_path: Path) -> None:
    """Saved wrapped and loaded bare, and the other way round."""
    model = kx.factorize(dense(), rank=1)
    model = kx.fold(model) if folded else model
    x = torch.randn(3, 32)
    wanted = model(x)
    kx.save(model, tmp_path / "bare")
    wrapped = WRAPPERS[name](model)
    if name == "average":
        wrapped = unwrapped(wrapped)  # it keeps a count besides, which the user's own model has no place for
    kx.save(wrapped, tmp_path / "wrapped")
    files = [(tmp_path / kind / "plan.json").read_text() for kind in ("bare", "wrapped")]
    assert files[0] == files[1]
    assert torch.equal(kx.load(dense(), tmp_path / "wrapped")(x), wanted)
    if name in ("compile", "part by part"):
        loaded = kx.load(WRAPPERS[name](dense()), tmp_path / "bare")
        state = {user_name(loaded, key): value for key, value in loaded.state_dict().items()}
        assert all(torch.equal(state.pop(key), value) for key, value in model.state_dict().items())
        assert not state


def test_every_key_of_a_state_is_renamed() -> None:
    model = dense()
    wrapped = all_at_once(model)
    assert sorted(user_name(wrapped, key) for key in wrapped.state_dict()) == sorted(model.state_dict())
    assert user_name(wrapped, "no.such.key") == "no.such.key"
    assert unwrapped(wrapped) is not model
    assert [type(unwrapped(WRAPPERS[name](model))) for name in WRAPPERS] == [nn.Sequential] * len(WRAPPERS)


def test_a_wrapped_linear_layer_is_the_weight() -> None:
    assert list(kx.factors(compiled(kx.factorize(nn.Linear(32, 32), rank=1)))) == ["weight"]
