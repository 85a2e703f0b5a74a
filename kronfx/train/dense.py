"""Which weights of a dense model a baseline acts on, and how each is cut."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeVar

from torch import nn

from kronfx.errors import TrainError
from kronfx.layers import named_parameters, require_module, site_name
from kronfx.train.groups import Groups
from kronfx.train.names import by_name
from kronfx.train.part import Part
from kronfx.train.parts import DensePart
from kronfx.train.shrinkage import Shrinkage

GroupsWish = Groups | Mapping[str, Groups]
Axis = TypeVar("Axis", Groups, Shrinkage)


def dense_parts(model: nn.Module, groups: GroupsWish, shrinkage: Shrinkage) -> dict[str, Part]:
    """The weights of every ``nn.Linear``, each cut by ``groups``; or, of a mapping from names or globs to groups, the
    weights of two or more dimensions that it names (an exact name wins over a glob, else the last one). A weight that
    several modules share counts once.

    Raises TrainError: no such weight, a name that is no weight's, a weight that cannot be cut so, a way to cut or to
    charge that is none.
    """
    require_module(model, TrainError)
    charge = _instance("shrinkage", shrinkage, "factor", "Lasso()")
    wishes = groups if isinstance(groups, Mapping) else dict.fromkeys(_linear(model), groups)
    weights = {site_name(path): p for path, p in named_parameters(model) if p.ndim > 1}
    if not wishes:
        raise TrainError("", "no nn.Linear in the model", "at least one", "name the weights: groups={'conv1': Rows()}")
    parts: dict[str, Part] = {}
    for name, cut in by_name("groups", wishes, list(weights)).items():
        weight = weights[name]
        m, n = weight.shape[0], prod(weight.shape[1:])
        label = f"{name} ({m}x{n})"
        parts[name] = DensePart(
            name, weight, _instance("groups", cut, "grid", "Blocks(2, 2)").grid(label, m, n), charge
        )
    return parts


def _linear(model: nn.Module) -> list[str]:
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    return [site_name(path) for path, parameter in named_parameters(model) if id(parameter) in weights]


def _instance(what: str, value: Axis, method: str, example: str) -> Axis:
    """One of an axis' values; a class that was not called, a name or a tuple is none."""
    if isinstance(value, type) or not hasattr(value, method):
        raise TrainError("", f"{what}={value!r}", f"a value such as {example}", f"pass kronfx.train.{example}, say")
    return value
