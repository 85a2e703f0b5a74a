"""Patterns of which one is to survive: their norms, the group term's proximal step, and when to ease off."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kronfx.errors import TrainError
from kronfx.layers import KroneckerLinear

Pattern = Mapping[str, KroneckerLinear]  # a candidate at every site it spans, by the site's name

SHARE = 0.1  # of the strongest pattern's norm: no step takes more
STATE = "scale", "units", "most", "start", "easing"
FLOOR = 0.1  # of the strongest norm at the start: below it all are collapsing


class Contest:
    """``K`` patterns and the strength that is left of the group term, or has grown.

    The norm of pattern ``k`` is ``sqrt(sum over its layers of ||S^(l,k)||_F^2)`` in the scale in which ``S[p, j]`` is
    the root mean square of block ``(p, j)`` of ``W^(l,k)``, against that of all the layer's candidates at the start;
    it is given as a share of what the finest pattern starts with, about 1.
    """

    def __init__(self, patterns: Sequence[Pattern], growth: float) -> None:
        self.patterns, self.scale = list(patterns), 1.0
        self.easing, self._growth, self._warned = False, growth, False
        self.units = {site: self._unit(site) for site in patterns[0]}
        self.most = max(sum(layer.blocks for layer in pattern.values()) for pattern in patterns)
        self.start = max(self.norms())

    def state(self) -> dict[str, Any]:
        """What a resumed contest goes on from."""
        return {name: getattr(self, name) for name in STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name in STATE:
            setattr(self, name, state[name])

    def _unit(self, site: str) -> float:
        """The mean square of an entry of ``W^(l,k)`` over all candidates ``k`` of a site."""
        layers = [pattern[site] for pattern in self.patterns]
        unit = float(torch.stack([squared_norm(layer) / _entries(layer) for layer in layers]).mean())
        if not (math.isfinite(unit) and unit > 0):
            remedy = "start from kronfx.factorize(model, init='random')"
            raise TrainError(
                site, f"candidates whose mean square is {unit}", "finite ones that are not all zero", remedy
            )
        return unit

    def norms(self) -> list[float]:
        """Of every pattern left, read at once, since on a GPU each reading waits. Raises TrainError."""
        squares: list[Tensor] = [self._square(pattern) for pattern in self.patterns]
        norms: list[float] = torch.stack([square.to(squares[0].device) for square in squares]).sqrt().tolist()
        if not all(map(math.isfinite, norms)):
            remedy = "lower the learning rate or clip the gradient, and resume from before it diverged"
            raise TrainError(", ".join(self.units), "NaN or infinite factors", "finite candidates", remedy)
        return norms

    def _square(self, pattern: Pattern) -> Tensor:
        blocks = (
            squared_norm(layer) * (layer.blocks / _entries(layer) / self.units[site] / self.most)
            for site, layer in pattern.items()
        )
        total, *rest = list(blocks)
        return sum((square.to(total.device) for square in rest), start=total)

    @torch.no_grad()
    def shrink(self, step: float) -> list[Pattern]:
        """Subtract ``step`` times the scale from every norm, by way of ``A``; returns the patterns that are zero now.

        While more than one is left the scale grows. Where that would take all of them, it is halved instead, and
        nothing shrinks until the strongest is back.
        """
        norms = self.norms()
        top, threshold = max(norms), step * self.scale
        if threshold > SHARE * top or top < FLOOR * self.start:
            self._ease(step, top)
            return []
        self.easing = False
        self.scale *= self._growth
        for pattern, norm in zip(self.patterns, norms):
            for layer in pattern.values():
                layer.A.mul_(max(0.0, 1 - threshold / norm) if norm else 0.0)
        return [pattern for pattern, norm in zip(self.patterns, norms) if norm <= threshold]

    def drop(self, losers: Sequence[Pattern]) -> None:
        """Go on without them, and no stronger than at the start."""
        self.patterns = [pattern for pattern in self.patterns if pattern not in losers]
        self.scale = min(self.scale, 1.0)

    def _ease(self, step: float, top: float) -> None:
        if not self.easing:
            self.scale /= 2
        while step * self.scale > SHARE * top > 0:
            self.scale /= 2
        self.easing = True
        if not self._warned:
            self._warned = True
            text = f"train: all patterns are collapsing, the strongest is at {top / self.start:.0%} of where it started"
            warnings.warn(f"{text}; the group term eases off: lower group, growth or the learning rate", stacklevel=4)


def squared_norm(layer: KroneckerLinear) -> Tensor:
    """``||W||_F^2 = sum_ii' <S A_i, S A_i'> <B_i, B_i'>``, float32 at least; forms no ``W``."""
    precise = torch.promote_types(layer.S.dtype, torch.float32)
    C = (layer.S.unsqueeze(-3) * layer.A).detach().to(precise).flatten(-2)
    B = layer.B.detach().to(precise).flatten(-2)
    return ((C @ C.mT) * (B @ B.mT)).sum().clamp_min(0)


def _entries(layer: KroneckerLinear) -> int:
    """Of ``W``, a stack's all together."""
    return layer.blocks * layer.shape.m2 * layer.shape.n2
