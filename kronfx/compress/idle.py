"""Maps that nothing reads any more: what feeds emptied ones goes with them, and other blocks stay in its place.

Where all blocks of a map go, its outputs are constant, and what was computed for it alone is computed for nothing: no
gradient of the model's outputs reaches that. Its blocks cost nothing, so they go first, and the share is chosen anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kronfx.compress.candidates import Ranked
from kronfx.compress.maps import Map
from kronfx.compress.path import Path
from kronfx.compress.record import Record

NOTHING = 1e-10  # of the squared gradients that outputs had in the trained model: below are rounding errors

Kept = list[list[Tensor]]  # of every map, for every member of its stack, the blocks that stay


def settled(
    maps: Sequence[Map],
    found: Sequence[Ranked],
    choose: Callable[[Sequence[Ranked]], Kept],
    observed: Callable[[], Iterable[Record]],
) -> Kept:
    """What ``choose`` keeps of the ``found``, once what feeds emptied maps is free.

    ``maps`` are those of the model that is pruned, into which zeros are written; ``observed`` are their records then.
    """
    free: set[int] = set()
    while True:
        kept = choose([_free(one) if number in free else one for number, one in enumerate(found)])
        emptied = {number for number, stays in enumerate(kept) if stays and not any(map(torch.any, stays))}
        if emptied <= free:
            return kept
        free |= emptied
        for number in free:
            maps[number].write(torch.zeros_like(maps[number].weights))
        now = [record.worth for record in observed()]
        free |= {number for number, one in enumerate(found) if kept[number] and now[number] <= NOTHING * one.worth}


def _free(one: Ranked) -> Ranked:
    """With blocks that cost nothing."""
    paths = [Path(candidate.path.order, torch.zeros_like(candidate.path.costs)) for candidate in one.candidates]
    return replace(one, candidates=tuple(map(lambda c, path: replace(c, path=path), one.candidates, paths)))
