"""Which blocks go: the cheapest steps of the paths of all rows, until the share is reached.

A step of a path can be taken once those before it are. Taking the cheapest that can be taken, one after another (a heap
over the rows), takes the steps in the order of their running maximum along the path: so they are sorted by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kronfx.compress.path import Path
from kronfx.errors import PruneError
from kronfx.records import Site

Shares = Literal["global", "uniform", "rows"]
GONE = -1.0  # the key of a step that takes a block of zeros


@dataclass(frozen=True, eq=False, slots=True)
class Candidate:
    """A map and the paths of its rows. Its blocks count by ``area``, their entries, and cost by the entry.

    The last ``floor`` of its blocks never go; those that are ``gone [m1, n1]`` stay so.
    """

    site: Site
    path: Path
    area: int
    gone: Tensor
    floor: float = 0.0

    @property
    def keys(self) -> Tensor:
        """``[m1, n1]``: at which price an entry each step is taken; ``GONE`` where always, infinite where never."""
        keys = self.path.costs.cummax(dim=1).values / self.area
        staying = math.ceil(self.floor * keys.numel())
        last = keys.flatten().argsort(stable=True)[keys.numel() - staying :]
        keys = keys.flatten().index_fill(0, last, torch.inf).view_as(keys)
        return keys.masked_fill(self.gone.gather(1, self.path.order), GONE)

    def kept(self, taken: Tensor) -> Tensor:
        """``[m1, n1]`` booleans: which blocks stay where these steps are taken."""
        return ~torch.zeros_like(taken).scatter(1, self.path.order, taken)


def _of_all(candidates: Sequence[Candidate], target: float) -> list[Tensor]:
    """One share for all maps together."""
    keys = [candidate.keys for candidate in candidates]
    areas = [torch.full_like(k, candidate.area).flatten() for k, candidate in zip(keys, candidates)]
    where = candidates[0].site.label if len(candidates) == 1 else ""
    taken = _cheapest(torch.cat([k.flatten() for k in keys]), torch.cat(areas), target, where)
    return [part.view_as(k) for part, k in zip(taken.split([k.numel() for k in keys]), keys)]


def _of_each(candidates: Sequence[Candidate], target: float) -> list[Tensor]:
    """The same share for every map."""
    return [_of_all([candidate], target)[0] for candidate in candidates]


def _of_rows(candidates: Sequence[Candidate], target: float) -> list[Tensor]:
    """The same share for every row of blocks."""
    taken = []
    for keys in (candidate.keys for candidate in candidates):
        places = keys.argsort(dim=1, stable=True).argsort(dim=1)
        taken.append((places < round(target * keys.shape[1])) & keys.isfinite() | (keys == GONE))
    return taken


SHARES: dict[Shares, Callable[[Sequence[Candidate], float], list[Tensor]]] = {
    "global": _of_all,
    "uniform": _of_each,
    "rows": _of_rows,
}


def chosen(candidates: Sequence[Candidate], target: float, shares: Shares) -> list[Tensor]:
    """``[m1, n1]`` booleans of every map: the blocks that stay where a share ``target`` goes. Raises PruneError."""
    taken = SHARES[shares](candidates, target)
    return [candidate.kept(steps) for candidate, steps in zip(candidates, taken)]


def _cheapest(keys: Tensor, areas: Tensor, target: float, where: str) -> Tensor:
    """Which steps are taken: what is gone, then the cheapest, of a path the earlier first, as near to the target as
    whole blocks come."""
    order = keys.argsort(stable=True)
    shares = areas[order].cumsum(0) / areas.sum()
    count = int((shares - target).abs().argmin()) + 1
    count = max(count if float(shares[0]) < 2 * target else 0, int((keys == GONE).sum()))
    possible = int(keys.isfinite().sum())
    if not 0 < count <= possible:
        found = f"target={target:g} of {len(keys)} blocks, of which {possible} may go"
        remedy = "take another target, a smaller floor or smaller blocks"
        raise PruneError(where, found, "a share that some of them make", remedy)
    taken = torch.zeros_like(keys, dtype=torch.bool)
    taken[order[:count]] = True
    return taken
