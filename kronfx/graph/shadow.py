"""A copy of a model that has its structure and none of its values, and a place to run it that leaves no trace."""

from __future__ import annotations

import contextlib
import copy
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

_INDICES = 2**20  # entries: integers up to here are positions or indices, which a forward reads; above, packed weights
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


def shadow(model: nn.Module) -> tuple[nn.Module, dict[nn.Parameter, Tensor]]:
    """The model in evaluation mode on the meta device, and its parameters' shadows.

    A forward may read its integers (positions, indices), so those keep their values. Hooks of the user's stay out:
    they hold his objects, which a run would touch. What torch hung there itself (``weight_norm``) comes along.
    """
    memo: dict[int, Tensor] = {}
    for module in model.modules():
        held = (*module._parameters.values(), *module._buffers.values(), *vars(module).values())
        memo |= {
            id(tensor): _emptied(tensor) for tensor in held if isinstance(tensor, Tensor) and id(tensor) not in memo
        }
    hooks = [getattr(module, name) for module in model.modules() for name in _HOOKS]
    shadows = {parameter: memo[id(parameter)] for parameter in model.parameters()}
    users = {id(hook): hook for table in hooks for hook in table.values() if not _is_torchs(hook)}
    copied = copy.deepcopy(model, memo | users)
    for module in copied.modules():
        for name in _HOOKS:
            table = getattr(module, name)
            for key in [key for key, hook in table.items() if id(hook) in users]:
                del table[key]
    return copied.eval(), shadows


def _is_torchs(hook: object) -> bool:
    owner = getattr(hook, "__self__", hook)
    return type(owner).__module__.startswith("torch.")


def _emptied(tensor: Tensor) -> Tensor:
    if not (tensor.is_floating_point() or tensor.is_complex() or tensor.numel() > _INDICES):
        return tensor.detach().clone() if tensor.is_meta else tensor.detach().to("cpu", copy=True)
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


@contextlib.contextmanager
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
