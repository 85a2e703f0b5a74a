"""Which weights of a dense model a baseline acts on, and how each is cut."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from math import prod

from torch import nn

from kronfx.errors import TrainError
from kronfx.layers import require_module, site_name
from kronfx.train.groups import Groups
from kronfx.train.parts import DensePart
from kronfx.train.penalty import Part
from kronfx.train.shrinkage import Shrinkage

GroupsWish = Groups | Mapping[str, Groups]


def dense_parts(model: nn.Module, groups: GroupsWish, shrinkage: Shrinkage) -> dict[str, Part]:
    """The weights of every ``nn.Linear``, each cut by ``groups``; or, of a mapping from names or globs to groups, the
    weights of two or more dimensions that it names (an exact name wins over a glob, else the last one). A weight that
    several modules share counts once.

    Raises TrainError: no such weight, a name that is no weight's, a weight that cannot be cut so.
    """
    require_module(model, TrainError)
    wishes = groups if isinstance(groups, Mapping) else dict.fromkeys(_linear(model), groups)
    weights = {site_name(path): p for path, p in model.named_parameters() if p.ndim > 1}
    if not wishes:
        raise TrainError("", "no nn.Linear in the model", "at least one", "name the weights: groups={'conv1': Rows()}")
    found: dict[str, Groups] = {}
    for pattern, wish in sorted(wishes.items(), key=lambda item: item[0] in weights):
        names = [pattern] if pattern in weights else [name for name in weights if fnmatchcase(name, pattern)]
        if not names:
            known = ", ".join(weights) or "none at all"
            raise TrainError("", f"groups names {pattern!r}", f"a weight of the model ({known})", "name one of them")
        found |= dict.fromkeys(names, wish)
    parts: dict[str, Part] = {}
    for name, weight in weights.items():
        if name in found:
            m, n = weight.shape[0], prod(weight.shape[1:])
            label = f"{name} ({m}x{n})"
            parts[name] = DensePart(label, weight, found[name].grid(label, m, n), shrinkage)
    return parts


def _linear(model: nn.Module) -> list[str]:
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    return [site_name(path) for path, parameter in model.named_parameters() if id(parameter) in weights]
