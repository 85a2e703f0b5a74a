"""Which groups stay when so many have to go, and the few of every layer that always do.

A share of the whole model is no wish for a layer without any block: what such a layer feeds is a constant from there
on. So every layer keeps at least a tenth of what the target leaves of it on average, one group at least, and the other
layers give the rest. A layer with a target of its own has what was asked for, and one group at least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kronfx.train.parts.tensors import together

FLOOR = 0.1  # of the share that a target leaves


def floor_of(target: float, groups: int) -> int:
    """How many groups a layer keeps under a target of the whole model."""
    return max(1, round(FLOOR * (1 - target) * groups))


def guarded(ranks: Sequence[Tensor], floors: Sequence[int]) -> list[Tensor]:
    """Ranks ``[G]``, the ``floor`` highest of every part infinite."""
    raised = []
    for rank, floor in zip(ranks, floors):
        rank = rank.clone()
        rank[rank.topk(floor).indices] = math.inf
        raised.append(rank)
    return raised


def survivors(ranks: Sequence[Tensor], count: int, floors: Sequence[int]) -> list[Tensor]:
    """``[G]`` booleans a part: all but the ``count`` lowest ranks of all parts together, and never fewer than its
    floor."""
    every = torch.cat(together(guarded(ranks, floors)))
    alive = torch.ones_like(every, dtype=torch.bool)
    alive[every.argsort(stable=True)[:count]] = False
    return [mask.to(rank.device) for mask, rank in zip(alive.split([len(rank) for rank in ranks]), ranks)]


def at_floor(ranks: Sequence[Tensor], alive: Sequence[Tensor]) -> list[bool]:
    """Which parts kept a group although another of a higher rank had to go: their floor stood in the way."""
    ranks = together(ranks)
    pairs = list(zip(ranks, together(alive)))
    gone = torch.cat([rank[~mask] for rank, mask in pairs])
    if not len(gone):
        return [False] * len(pairs)
    bound: list[bool] = torch.stack([rank.where(mask, math.inf).min() < gone.max() for rank, mask in pairs]).tolist()
    return bound
