"""Weights are read, split and multiplied out in their own dtype, whatever autocast a caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICES = ("cpu", "cuda", "mps", "xpu", "hpu", "mtia")


@contextmanager
def full_precision() -> Iterator[None]:
    """Autocast is off in here, on every device; a compiler, which cannot look, keeps what it is in."""
    with ExitStack() as off:
        if not torch.compiler.is_compiling():
            for device in _DEVICES:
                if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
                    off.enter_context(torch.autocast(device, enabled=False))
        yield
