"""Memory for what lives no longer than a few products, kept from call to call: the system hands out new memory of some
megabytes page by page, which takes longer than to fill it (measured: ``kronfx/decisions/portions.md``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Scratch:
    """Buffers by name, as large as the largest that was ever asked for."""

    def __init__(self) -> None:
        self.buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, *sizes: int, like: Tensor) -> Tensor:
        """``[*sizes]`` in the dtype of ``like``, filled with anything, until the same name is asked for."""
        count, key = math.prod(sizes), (name, like.dtype)
        buffer = self.buffers.get(key)
        if buffer is None or len(buffer) < count:
            self.buffers.pop(key, None)  # before there are two
            with torch.inference_mode(False):
                buffer = self.buffers[key] = torch.empty(count, dtype=like.dtype, device="cpu")
        return buffer[:count].view(sizes)
