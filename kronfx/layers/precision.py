"""In which surroundings weights are read and the public verbs compute, whatever the caller has switched on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia")  # kinds on which torch knows autocast


@contextmanager
def without_autocast() -> Iterator[None]:
    """No autocast, in which products of float32 factors are rounded to 16 bits. A compiler, which cannot look, keeps
    what it is in.
    """
    with ExitStack() as off:
        if not torch.compiler.is_compiling():
            for device in DEVICES:
                if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                    off.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast; no inference mode, whose tensors can never train; and new tensors without a device of their own on
    the CPU, not on the default device. Also a decorator.
    """
    with without_autocast(), ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; after, as it was."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False  # an exported module has no eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def eager(*tensors: object) -> bool:
    """Whether there is no compiler and no tracer, and all are tensors of torch's own classes."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)


def unwatched(*tensors: object) -> bool:
    """Whether nobody looks on, so that an operation may be one of our own: no compiler, no tracer, no transform, and
    plain tensors on the CPU only, of one dtype unless autocast is on.
    """
    if not eager(*tensors) or torch._C._are_functorch_transforms_active():
        return False
    given = [x for x in tensors if isinstance(x, Tensor)]
    if any(x.device.type != "cpu" or x.is_nested for x in given):
        return False
    dtypes = {x.dtype for x in given}
    is_autocast = torch.is_autocast_enabled("cpu") and torch.float64 not in dtypes
    return all(dtype.is_floating_point for dtype in dtypes) and (is_autocast or len(dtypes) == 1)
