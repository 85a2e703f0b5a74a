"""Checkpoints of earlier releases, in today's names."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from kronfx.checkpoint.folder import Saved
from kronfx.layers import CHILD, KroneckerWeight, named_modules

_FACTORS = ("S", "A", "B", CHILD)


def in_todays_names(saved: Saved, model: nn.Module) -> Saved:
    """The checkpoint with the names that the rewritten ``model`` has.

    Factors of an owner's weight ``fc.w`` were once called ``fc.kronecker.w.S``, and those of a subclass of a linear
    layer, which was then replaced as a whole, ``fc.S``; both are ``fc.w.S`` now.
    """
    weights = {path for path, module in named_modules(model) if isinstance(module, KroneckerWeight)}
    names = {name: _today(name.split("."), weights) for name in (*saved.tensors, *saved.tied)}
    tied = {names[name]: names[root] for name, root in saved.tied.items()}
    return replace(saved, tied=tied, tensors={names[name]: value for name, value in saved.tensors.items()})


def _today(steps: list[str], weights: set[str]) -> str:
    for at, step in enumerate(steps):
        places = [(".".join((*steps[:at], "weight")), steps[at:])]
        if step == CHILD and at + 1 < len(steps):
            places.append((".".join((*steps[:at], steps[at + 1])), steps[at + 2 :]))
        for path, rest in places:
            if rest and rest[0] in _FACTORS and path in weights:
                return ".".join((path, *rest))
    return ".".join(steps)
