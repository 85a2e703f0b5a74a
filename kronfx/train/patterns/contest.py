"""Patterns of which one is to survive: their norms, the group term, which are gone, and when to ease off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kronfx.errors import TrainError, warn
from kronfx.layers import KroneckerLinear
from kronfx.train.state import State

Pattern = Mapping[str, KroneckerLinear]  # a candidate at every site it spans, by the site's name

GONE = 0.01  # of the strongest pattern's norm: what is below is set to zero
FLOOR = 0.1  # of the strongest norm at the start: below it all are collapsing
EASE = 0.9  # the scale's factor at every step while they are
TINY = 1e-30  # below a root, so that it has a gradient at zero


@dataclass(frozen=True, kw_only=True)
class ContestState(State):
    """The grown scale, the unit of every site, and the largest norm at the start."""

    scale: float
    units: dict[str, float]
    start: float


class Contest:
    """``K`` patterns, and how far the strength of the group term has grown.

    The norm of pattern ``k`` is ``sqrt(sum over its layers of ||W^(l,k)||_F^2)``, every layer in units of a candidate's
    mean norm at the start, divided by the root of their number: about 1 at the start, whatever the block shape. A layer
    that starts as zero adds 0 there; its unit is the norm that its other factor lets it grow to.
    """

    def __init__(self, patterns: Sequence[Pattern], growth: float) -> None:
        self.patterns, self.scale = list(patterns), 1.0
        self._growth, self._warned = growth, False
        self.units = {site: self._unit(site) for site in patterns[0]}
        self.start = float(self.norms().detach().max())

    def state(self) -> ContestState:
        """What a resumed contest goes on from."""
        return ContestState(scale=self.scale, units=self.units, start=self.start)

    def restore(self, state: ContestState) -> None:
        """Go on from there."""
        self.scale, self.units, self.start = state.scale, state.units, state.start

    @torch.no_grad()
    def _unit(self, site: str) -> float:
        """The mean of ``||W^(l,k)||_F^2`` over the candidates ``k`` of a site, those that start as zero once grown."""
        squares = [float(squared_norm(pattern[site])) or _grown(pattern[site]) for pattern in self.patterns]
        unit = sum(squares) / len(squares)
        if not (math.isfinite(unit) and unit > 0):
            found = f"candidates of mean square norm {unit}"
            remedy = "start from kronfx.factorize(model, init='random')"
            raise TrainError(site, found, "finite ones that are not all zero", remedy)
        return unit

    def norms(self) -> Tensor:
        """``[K]``, of every pattern left; differentiable."""
        squares = [self._square(pattern) for pattern in self.patterns]
        return (torch.stack([square.to(squares[0].device) for square in squares]) + TINY).sqrt()

    def _square(self, pattern: Pattern) -> Tensor:
        shares = [squared_norm(layer) / (self.units[site] * len(pattern)) for site, layer in pattern.items()]
        return torch.stack([share.to(shares[0].device) for share in shares]).sum()

    def settle(self, norms: Sequence[float]) -> list[Pattern]:
        """Which patterns are gone, given all norms; the scale grows, or eases off while all patterns are collapsing.

        The strongest never goes. Raises TrainError on norms that are not finite.
        """
        if not all(map(math.isfinite, norms)):
            remedy = "lower the learning rate or clip the gradient, and resume from before it diverged"
            raise TrainError(", ".join(self.units), "NaN or infinite factors", "finite candidates", remedy)
        top = max(norms)
        low = top < FLOOR * self.start
        self.scale *= EASE if low else self._growth
        if low and not self._warned:
            self._warned = True
            text = f"train: all patterns are collapsing, the strongest has {top / self.start:.0%} of its first norm"
            warn(f"{text}; the group term eases off: lower group or the learning rate")
        return [pattern for pattern, norm in zip(self.patterns, norms) if norm < GONE * top]

    def drop(self, losers: Sequence[Pattern]) -> None:
        """Go on without them, and no stronger than at the start."""
        self.patterns = [pattern for pattern in self.patterns if pattern not in losers]
        self.scale = min(self.scale, 1.0)


def _grown(layer: KroneckerLinear) -> float:
    """``||W||_F^2 = m n r <S^2> <A^2> <B^2>`` of factors without correlation, one of zeros counted as its partner is:
    what a map that starts as zero comes to. 0 where none of them could ever have a gradient."""
    S, A, B = (float(factor.float().square().mean()) for factor in (layer.S, layer.A, layer.B))
    return layer.S.numel() * math.prod(layer.grid.block) * layer.rank * S * max(A, B) ** 2


def squared_norm(layer: KroneckerLinear) -> Tensor:
    """``||W||_F^2 = sum_ii' <S A_i, S A_i'> <B_i, B_i'>``, float32 at least, under autocast too. Forms no ``W``, but
    for a padded layer, whose surplus rows and columns cost nothing."""
    precise = torch.promote_types(layer.S.dtype, torch.float32)
    with torch.autocast(layer.S.device.type, enabled=False):
        if layer.features is not None:
            return layer.weight.to(precise).square().sum()
        C = (layer.S.unsqueeze(-3) * layer.A).to(precise).flatten(-2)
        B = layer.B.to(precise).flatten(-2)
        return ((C @ C.mT) * (B @ B.mT)).sum()
