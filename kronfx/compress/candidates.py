"""From what a map was seen to get: which of its blocks may go, in which order, at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kronfx import kron
from kronfx.compress.criteria import CRITERIA, Known
from kronfx.compress.options import PruneOptions
from kronfx.compress.record import Record
from kronfx.compress.refit import damped
from kronfx.compress.share import Candidate, Shares, chosen
from kronfx.records import Refusal, Site


@dataclass(frozen=True, eq=False, slots=True)
class Ranked:
    """The candidates of a map, one for each member of its stack, or the ``reason`` why it is left alone; what its
    outputs are ``worth``."""

    site: Site
    candidates: tuple[Candidate, ...] = ()
    reason: str = ""
    worth: float = 0.0

    @property
    def zero_blocks(self) -> int:
        """How many of the map's blocks are zero already."""
        return sum(int(candidate.gone.sum()) for candidate in self.candidates)

    @property
    def refusal(self) -> Refusal:
        """The reason, for the report."""
        return Refusal(self.site.name, self.site.kind, (self.site.m, self.site.n), self.reason)


def ranked(record: Record, options: PruneOptions) -> Ranked:
    """The order in which the blocks of a map go. A member of a stack that no row reached keeps all of its own."""
    subject, criterion = record.map, CRITERIA[options.how]
    reason = record.reason(criterion.gradients)
    if reason is not None:
        return Ranked(subject.site, reason=reason)
    candidates = []
    for W, moments in zip(subject.weights, record.moments):
        H = damped(moments.second(record.bias is not None), options.damping)
        path = criterion.path(Known(W.to(H), H, moments.gg.to(H), subject.grid))
        floor = options.floor if moments.rows else 1.0
        area = subject.grid.m2 * subject.grid.n2
        gone = ~kron.block_mask(W, subject.grid).cpu()
        candidates.append(Candidate(subject.site, path.to("cpu"), area, gone, floor))
    return Ranked(subject.site, tuple(candidates), worth=record.worth)


def choice(found: Sequence[Ranked], target: float | Mapping[str, float], shares: Shares) -> list[list[Tensor]]:
    """Of every map, for every member of its stack, the blocks ``[m1, n1]`` that stay. Raises PruneError.

    A mapping has a target for each map that is to be pruned, by the name of its site.
    """
    if isinstance(target, Mapping):
        each = [(one, target[one.site.name]) for one in found]
        return [chosen(one.candidates, share, shares) if one.candidates else [] for one, share in each]
    stays = iter(chosen([candidate for one in found for candidate in one.candidates], target, shares))
    return [[next(stays) for _ in one.candidates] for one in found]
