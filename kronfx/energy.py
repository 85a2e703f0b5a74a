"""What the nearest factors keep of each weight, for a planner that sees no tensors: once a layer and shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kronfx.errors import PlanError
from kronfx.kron import energy_kept
from kronfx.records import KroneckerShape, Site


class Energies:
    """``energies(site, shape)[r - 1]``: the share of ``||W||^2`` that rank ``r`` keeps (``kron.energy_kept``).

    ``weights`` are the dense weights ``[..., m, n]`` by the names of their sites, a convolution's unrolled. Raises
    PlanError where one has no values, or none that are finite.
    """

    measure, spanning = "energy", False

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._known: dict[tuple[str, KroneckerShape], list[float]] = {}
        for name, W in weights.items():
            _require_values(name, W)

    def __call__(self, site: Site, shape: KroneckerShape) -> Sequence[float]:
        key = site.name, shape
        if key not in self._known:
            self._known[key] = energy_kept(self._weights[site.name], shape).tolist()
        return self._known[key]


def _require_values(name: str, W: Tensor) -> None:
    where = f"{name} ({W.shape[-2]}x{W.shape[-1]})"
    if W.is_meta:
        found = "a weight on the meta device, which has no energy"
        raise PlanError(where, found, "values to look at", "load the weights first, or plan without energy=True")
    if not bool(torch.isfinite(W).all()):
        found = "NaN or infinite weights, which have no energy"
        raise PlanError(where, found, "finite values", "repair the checkpoint, or plan without energy=True")
