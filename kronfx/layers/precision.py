"""The surroundings in which the public verbs compute, whatever the caller has switched on around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu")  # kinds on which torch knows autocast


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast, in which products of float32 factors are rounded to 16 bits; no inference mode, whose tensors can
    never train; and new tensors without a device of their own on the CPU, not on the default device. Also a decorator.
    """
    with ExitStack() as stack:
        for device in DEVICES:
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
