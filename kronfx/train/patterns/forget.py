"""An optimizer lets go of parameters that have left the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer


def forget(optimizer: Optimizer, before: Sequence[nn.Parameter], after: Sequence[nn.Parameter]) -> None:
    """Take the parameters that a model had before and has no longer out of their groups, and their state with them.

    A group that was in the order of the model's parameters is so afterwards: the state dict of an optimizer knows
    parameters by their places, and one that resumes is built from the smaller model.
    """
    old, new = _places(before), _places(after)
    gone = [parameter for parameter in before if id(parameter) not in new]
    for group in optimizer.param_groups:
        if any(id(parameter) in old and id(parameter) not in new for parameter in group["params"]):
            _shorten(group, old, new)
    for parameter in gone:
        optimizer.state.pop(parameter, None)


def _shorten(group: dict[str, Any], old: Mapping[int, int], new: Mapping[int, int]) -> None:
    parameters: list[nn.Parameter] = group["params"]
    names = group.get("param_names", [""] * len(parameters))  # torch keeps them where it was given some
    entries = [(p, name) for p, name in zip(parameters, names) if id(p) in new or id(p) not in old]
    places = [old.get(id(parameter), -1) for parameter in parameters]
    if places == sorted(places):
        entries.sort(key=lambda entry: new.get(id(entry[0]), -1))
    group["params"] = [parameter for parameter, _ in entries]
    if "param_names" in group:
        group["param_names"] = [name for _, name in entries]


def _places(parameters: Sequence[nn.Parameter]) -> dict[int, int]:
    return {id(parameter): place for place, parameter in enumerate(parameters)}
