"""A model's twin, to trace and to run: the same modules and attributes, tensors without values.

Looking at what code does means to run it. What it does to its module (counters, statistics, caches, lists it appends
to) happens to the twin; the generators it draws from and the modes it leaves behind are put back.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from kronfx.layers import rebind

_INDICES = 2**20  # entries: integers up to here are positions or indices, which a forward reads; above, packed weights
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def twins(model: nn.Module) -> dict[nn.Module, nn.Module]:
    """Every module of the model -> its twin, whose parameters and buffers are on the meta device.

    A forward may read its integers (positions, indices), so those keep their values. Hooks of the user's stay out:
    they hold his objects, which a run would touch. What torch hung there itself (``weight_norm``) comes along. What
    cannot be copied, and what belongs to no module (a file, a process group), both of them hold.
    """
    found = {module: _blank(module) for module in model.modules()}
    memo: dict[int, Any] = {id(module): each for module, each in found.items()}
    for module in found:
        held = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        memo |= {id(value): _valueless(value) for value in held if isinstance(value, Tensor) and id(value) not in memo}
        if isinstance(module, fx.GraphModule):
            memo[id(module.graph)] = module.graph  # nobody changes it
    for module, each in found.items():
        if not isinstance(module, torch.jit.ScriptModule):
            vars(each).update({name: _copied(_kept(name, value), memo) for name, value in vars(module).items()})
    return found


def shadow(model: nn.Module) -> tuple[nn.Module, dict[nn.Parameter, Tensor]]:
    """The model's twin in evaluation mode, to run, and of each of its parameters the twin's."""
    found = twins(model)
    pairs = ((module._parameters, each._parameters) for module, each in found.items())
    shadows: dict[nn.Parameter, Tensor] = {
        p: each
        for ours, theirs in pairs
        for p, each in zip(ours.values(), theirs.values())
        if p is not None and each is not None
    }
    rebind(found[model], model)
    for each in found.values():
        each.training = False  # an exported module has no eval()
    return found[model], shadows


def _blank(module: nn.Module) -> nn.Module:
    """An instance without attributes; what torch.jit made is whole or not at all."""
    if isinstance(module, torch.jit.ScriptModule):
        return copy.deepcopy(module)
    blank: nn.Module = object.__new__(type(module))
    return blank


def _valueless(value: Tensor) -> Tensor:
    """The tensor on the meta device, or a copy of its integers; itself where it is not born yet."""
    if nn.parameter.is_lazy(value):
        return value
    if not (value.is_floating_point() or value.is_complex() or value.numel() > _INDICES):
        return value.detach().clone() if value.is_meta else value.detach().to("cpu", copy=True)
    empty = torch.empty(value.shape, dtype=value.dtype, device="meta")
    return nn.Parameter(empty, value.requires_grad) if isinstance(value, nn.Parameter) else empty


def _kept(name: str, value: Any) -> Any:
    """An attribute's value; of tables of hooks, torch's own."""
    return type(value)((key, hook) for key, hook in value.items() if _is_torchs(hook)) if name in _HOOKS else value


def _is_torchs(hook: object) -> bool:
    owner = getattr(hook, "__self__", hook)
    return type(owner).__module__.startswith("torch.")


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # an attribute may be anything
        return copy.copy(value) if isinstance(value, (list, dict, set)) else value


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random states, grad mode, warnings and torch's fast paths, which would hide what they do, as they were after."""
    python, numpy, fast = random.getstate(), np.random.get_state(), torch.backends.mha.get_fastpath_enabled()
    devices, dtype = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else (), torch.get_default_dtype()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_default_dtype(dtype)
        torch.backends.mha.set_fastpath_enabled(fast)
