"""Every warning comes once a line, and the line is the user's, however deep in kronfx or torch it was found."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import kronfx as kx
from kronfx.errors import warn


def nothing_to_rewrite() -> int:
    kx.factorize(nn.Sequential(nn.ReLU()))
    return line()


def dead_layer() -> int:
    """Said below ``torch.no_grad``, which has a frame of its own."""
    model, optimizer, sparsity = training()
    stepped(model, optimizer)
    kx.factors(model)["0"].S.data.zero_()
    sparsity.step()
    return line()


def never_stepped() -> int:
    """Said below torch's optimizer, which calls a hook."""
    model, optimizer, sparsity = training()
    for _ in range(100):
        stepped(model, optimizer)
    assert not sparsity.frozen
    return inspect.getsourcelines(stepped)[1] + 3  # the line of optimizer.step()


def training() -> tuple[nn.Module, torch.optim.Optimizer, kx.train.BlockSparsity]:
    model = kx.factorize(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), rank=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    return model, optimizer, kx.train.BlockSparsity(model, strength=1e-6, optimizer=optimizer)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 16)).sum().backward()
    assert next(model.parameters()).grad is not None
    optimizer.step()


def line() -> int:
    """That above the call of this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno - 1


@pytest.mark.parametrize("case", [nothing_to_rewrite, dead_layer, never_stepped])
def test_the_line_is_the_users(case: Callable[[], int]) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        wanted = case()
    (warning,) = said
    assert (Path(warning.filename).name, warning.lineno) == (Path(__file__).name, wanted)
    assert warning.category is UserWarning


def test_it_is_said_once_a_line() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            kx.factorize(nn.Sequential(nn.ReLU()))
        kx.factorize(nn.Sequential(nn.ReLU()))
    assert len(said) == 2
    assert len({warning.lineno for warning in said}) == 2


def test_it_can_be_made_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="^kronfx.factorize rewrote nothing"):
            kx.factorize(nn.Sequential(nn.ReLU()))


def test_with_no_line_of_the_users_it_is_said_all_the_same() -> None:
    names: dict[str, object] = {"__name__": "torch.somewhere", "warn": warn}
    with pytest.warns(UserWarning, match="^a sentence$"):
        exec(compile("warn('a sentence')", "somewhere.py", "exec"), names)


def test_no_call_depth_is_written_as_a_number() -> None:
    sources = Path(kx.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if "stacklevel" in path.read_text()] == []
