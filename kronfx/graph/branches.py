"""Which linear maps of a model end a residual branch: seen by running it without values, never guessed.

The whole model is run on inputs guessed from its layers, on the meta device; where no guess runs, its children are,
one by one and down to the smallest, each by itself. An end that is seen in a part is one in the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from kronfx.graph.ends import Ends
from kronfx.graph.flow import recorded
from kronfx.graph.guesses import Call, guesses
from kronfx.graph.match import Match
from kronfx.graph.twin import shadow, undisturbed
from kronfx.records import Branches
from kronfx.tables import abbreviated


@dataclass(frozen=True, slots=True)
class _Seen:
    """Weight, by number -> of each use whether it ends a branch (None: it was not to be seen); and what stopped."""

    uses: dict[int, list[bool | None]] = field(default_factory=dict)
    stopped: list[str] = field(default_factory=list)

    def add(self, uses: dict[int, list[bool | None]]) -> None:
        for weight, verdicts in uses.items():
            self.uses.setdefault(weight, []).extend(verdicts)


def branches(model: nn.Module, matches: Sequence[Match], example_inputs: Any = None) -> Branches:
    """The ends of the model's residual branches among its sites; the model is left as it is, no value is touched.

    ``example_inputs``, where the guesses do not run: a tensor, a tuple of tensors or a dict of keyword tensors.
    """
    if not matches:
        return Branches()
    names = [match.site.name for match in matches]
    seen = _Seen()
    with undisturbed():
        try:
            copied, shadows = shadow(model)
            weights = {shadows[match.parameter]: number for number, match in enumerate(matches)}
            given = None if example_inputs is None else _given(example_inputs)
            _look(getattr(copied, "_orig_mod", copied), weights, given, seen, whole=True)
        except Exception as error:  # a model may hold, and its forward may do, anything
            seen.stopped.append(_said(error))
    ends = {names[w] for w, uses in seen.uses.items() if all(uses)}
    followed = ends | {names[w] for w, uses in seen.uses.items() if False in uses}
    return Branches(frozenset(ends), frozenset(followed), _blind(names, followed, seen.stopped))


def _look(module: nn.Module, weights: dict[Tensor, int], given: Call | None, seen: _Seen, whole: bool) -> None:
    """Run the module, or else each of its children, where any of the weights lives in it."""
    if not any(parameter in weights for parameter in module.parameters()):
        return
    stopped: list[str] = []
    for args, kwargs in guesses(module) if given is None else [given]:
        try:
            flow = recorded(module, args, kwargs, weights)
        except Exception as error:  # see branches
            stopped.append(_said(error))
            continue
        seen.add(Ends(flow, whole).verdicts())
        return
    seen.stopped.extend(stopped)
    for child in module.children():
        _look(child, weights, None, seen, whole=False)


def _given(example_inputs: Any) -> Call:
    """Floating tensors without their values; what else there is may be read."""
    inputs = tree_map_only(Tensor, _emptied, example_inputs)
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _emptied(value: Tensor) -> Tensor:
    return torch.empty_like(value, device="meta") if value.is_floating_point() else value.detach().clone()


def _blind(names: list[str], followed: set[str], stopped: list[str]) -> str:
    """Why some maps were not followed; empty where all were."""
    left = [name for name in names if name not in followed]
    if not left:
        return ""
    why = f"; a forward stopped at {stopped[0]}" if stopped else ""
    return f"{abbreviated(left)} on guessed inputs{why}; example_inputs= may help"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:120]}"
