"""What factors keep of a map's outputs, for a planner that sees no tensors: budgets go where they matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kronfx import kron
from kronfx.compress.factors import fitted_ranks
from kronfx.compress.fit import DAMPING, MEMORY
from kronfx.compress.maps import Map
from kronfx.compress.refit import damped
from kronfx.compress.samples import Samples
from kronfx.energy import Energies
from kronfx.records import KroneckerShape, Site

SWEEPS = 2  # of the fit: two more move the error by little
LARGEST = 2048  # unknowns of a system: higher ranks are not tried
LEAST = 1e-6  # a share whose logarithm is a number


class OutputEnergies:
    """``energies(site, shape)[r - 1]``: the share of ``tr(W H W^T)`` that factors of rank ``r`` keep that were fitted
    to the outputs, ``H [n, n]`` the moments of what the map gets in the batches.

    Exact where a block spans all inputs. Else the factors of the ranks 1, 2, 4 ... are fitted, up to ``LARGEST``
    unknowns and the parameters of the dense map; between these the error is taken as a power of the rank, and from the
    last one to ``min(m1 n1, m2 n2)``, which keeps all, as a straight line. Of a map that no batch reaches it is the
    energy of the weight. Sites are asked for in the order of the maps, of whose sums ``MEMORY`` are kept at once.
    Raises PruneError.
    """

    measure, spanning = "output energy", True

    def __init__(self, model: nn.Module, maps: Sequence[Map], batches: Sequence[Any], weights: Energies) -> None:
        self._records = Samples(model, batches, MEMORY).records(maps)
        self._weights = weights
        self._site = ""
        self._seen: list[tuple[Tensor, Tensor]] = []  # W and H of every member of the site's stack
        self._known: dict[tuple[str, KroneckerShape], Sequence[float]] = {}

    def __call__(self, site: Site, shape: KroneckerShape) -> Sequence[float]:
        key = site.name, shape
        if key not in self._known:
            self._find(site)
            each = [_kept(W, H, shape) for W, H in self._seen]
            self._known[key] = np.mean(each, axis=0).tolist() if each else self._weights(site, shape)
        return self._known[key]

    def _find(self, site: Site) -> None:
        """Go on to the record of this site."""
        while self._site != site.name:
            record = next(self._records)
            self._site = record.map.site.name
            seen = zip(record.map.weights, record.moments) if record.reason(gradients=False) is None else ()
            self._seen = [(W, damped(moments.second(record.bias is not None), DAMPING)) for W, moments in seen]


def _kept(W: Tensor, H: Tensor, shape: KroneckerShape) -> Sequence[float]:
    """Of one map, rank by rank."""
    if shape.n1 == 1:
        return kron.energy_kept(W @ torch.linalg.cholesky(H), shape).clamp_min(LEAST).tolist()
    whole, tried = float(((W @ H) * W).sum()), _tried(shape, W.numel())
    if not whole or not tried:
        return [1.0] * shape.max_rank
    errors = []
    for factors in fitted_ranks(W, H, shape, tried, SWEEPS):
        difference = W - kron.materialize(*factors)[: W.shape[0], : W.shape[1]]
        errors.append(max(LEAST, float(((difference @ H) * difference).sum()) / whole))
    ranks, last = np.arange(1, shape.max_rank + 1), tried[-1]
    between = np.exp(np.interp(np.log(ranks), np.log(tried), np.log(errors)))
    beyond = np.interp(ranks, (last, shape.max_rank), (errors[-1], 0.0))
    kept: list[float] = np.clip(1 - np.where(ranks < last, between, beyond), LEAST, 1).tolist()
    return kept


def _tried(shape: KroneckerShape, dense: int) -> list[int]:
    """The ranks 1, 2, 4 ... and the last one that is smaller than dense, where that is not too large."""
    last = min((dense - shape.blocks) // (shape.blocks + shape.m2 * shape.n2), LARGEST // max(shape.n1, shape.n2))
    last = min(max(last, 1), shape.max_rank - 1)
    return sorted({2**k for k in range(last.bit_length())} | {last}) if last else []
