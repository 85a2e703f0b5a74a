"""Copies that turn a matrix of blocks, a run of entries at a time: torch copies what is turned entry by entry.

A run is moved as numbers of 16 or 8 bytes, which of four entries is up to 7 times as fast (measured:
``kronfx/decisions/formed.md``). None is read as a number: bits move.
"""

from __future__ import annotations

import torch
from torch import Tensor

WIDE = ((16, torch.complex128), (8, torch.complex64))  # bytes of a number, widest first


def moved(place: Tensor, source: Tensor) -> Tensor:
    """``place.copy_(source)``, of equal shapes and dtypes; runs lie along the last axis."""
    for size, dtype in WIDE:
        count = size // place.itemsize
        if count > 1 and _holds(place, count) and _holds(source, count):
            place.view(dtype).copy_(source.view(dtype))
            return place
    return place.copy_(source)


def _holds(tensor: Tensor, count: int) -> bool:
    """Whether so many entries together can be seen as one, everywhere in it."""
    *strides, last = tensor.stride()
    return last == 1 and not any(number % count for number in (tensor.shape[-1], tensor.storage_offset(), *strides))
