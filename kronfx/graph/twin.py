"""A model's twin, to trace: the same modules and attributes, tensors without values.

A trace runs code. What that code does to its module (counters, statistics, caches, lists it appends to) happens to the
twin; ``shadow.undisturbed`` puts back the generators it draws from and the modes it leaves behind.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn


def twins(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Every module of the model -> its twin, whose parameters and buffers are on the meta device.

    What cannot be copied, and what belongs to no module (a file, a process group), both of them hold.
    """
    memo: dict[int, Any] = {}
    found = {module: _blank(module) for module in model.modules()}
    memo |= {id(module): each for module, each in found.items()}
    for module in found:
        for held in (module._parameters, module._buffers):
            memo |= {id(value): _valueless(value) for value in held.values() if value is not None}
    for module, each in found.items():
        if each is not module:
            vars(each).update({name: _copied(value, memo) for name, value in vars(module).items()})
    return found


def _blank(module: nn.Module) -> nn.Module:
    """An instance without attributes; a graph, and what torch.jit made, are looked at as they are."""
    if isinstance(module, (fx.GraphModule, torch.jit.ScriptModule)):
        return module
    blank: nn.Module = object.__new__(type(module))
    return blank


def _valueless(value: Tensor) -> Tensor:
    """The tensor on the meta device; itself where it is of a kind that cannot go there, or is not born yet."""
    if nn.parameter.is_lazy(value):
        return value
    try:
        empty = torch.empty_like(value.detach(), device="meta")
    except Exception:  # quantized, sharded, sparse: whatever their class raises
        return value
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, Tensor) and id(value) not in memo:
        memo[id(value)] = _valueless(value)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # an attribute may be anything
        return copy.copy(value) if isinstance(value, (list, dict, set)) else value
