"""Tensors that lie on several devices, or in the shards of FSDP2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def together(values: Sequence[Tensor]) -> list[Tensor]:
    """On the device of the first: the parts of a model may live on several."""
    return [value.to(values[0].device) for value in values]


def whole(x: Tensor) -> Tensor:
    """The tensor itself, or, where FSDP2 keeps it in shards, all of it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def placed(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in the type and, where ``like`` is in shards, in the shards of ``like``."""
    x = x.to(like.dtype)
    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x
