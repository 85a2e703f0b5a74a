"""Checkpoints of earlier releases, in today's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from kronfx.checkpoint.folder import Saved
from kronfx.layers import CHILD, KroneckerWeight

_FACTORS = ("S", "A", "B", CHILD)


def in_todays_names(saved: Saved, model: nn.Module) -> Saved:
    """The checkpoint with the names that the rewritten ``model`` has.

    Factors of an owner's weight ``fc.w`` were once called ``fc.kronecker.w.S``, and those of a subclass of a linear
    layer, which was then replaced as a whole, ``fc.S``; both are ``fc.w.S`` now.
    """
    names = {name: _today(name, model) for name in (*saved.tensors, *saved.tied)}
    tied = {names[name]: names[root] for name, root in saved.tied.items()}
    return replace(saved, tied=tied, tensors={names[name]: value for name, value in saved.tensors.items()})


def _today(name: str, model: nn.Module) -> str:
    steps = name.split(".")
    for at, step in enumerate(steps):
        places = [("weight", steps[at:])]
        if step == CHILD and at + 1 < len(steps):
            places.append((steps[at + 1], steps[at + 2 :]))
        for weight, rest in places:
            owner = _modules_at(model, steps[:at])
            if rest and rest[0] in _FACTORS and isinstance(owner.get(weight), KroneckerWeight):
                return ".".join((*steps[:at], weight, *rest))
    return name


def _modules_at(model: nn.Module, steps: list[str]) -> Mapping[str, nn.Module | None]:
    for step in steps:
        child = model._modules.get(step)
        if child is None:
            return {}
        model = child
    return model._modules
