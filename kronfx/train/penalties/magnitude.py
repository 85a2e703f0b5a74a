"""The baselines that prune: the smallest groups of a dense model are zeroed, and stay zero, while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.errors import TrainError
from kronfx.train.course.schedules import Schedule, as_schedule, value_at
from kronfx.train.course.stepper import Stepper
from kronfx.train.parts.dense import GroupsWish, dense_parts
from kronfx.train.parts.shrinkage import Lasso
from kronfx.train.penalties.grouped import GroupPenalty, PenaltyState


@dataclass(frozen=True, kw_only=True)
class PruningState(PenaltyState):
    """The penalties', and which groups are not pruned."""

    alive: dict[str, Tensor]


class MagnitudePruning(GroupPenalty):
    """At every step the ``share(step)`` of all groups with the smallest root mean square is zero, for good.

    ::

        tenths = kx.train.Stepped(0, 0.1, every=len(batches), end=0.6)
        pruning = kx.train.MagnitudePruning(model, kx.train.Entries(), share=tenths, optimizer=optimizer)

    ``groups`` as in :class:`GroupLasso`: ``Entries()`` is iterative unstructured pruning, ``Blocks(m2, n2)`` block
    pruning; all weights are ranked together, groups of several entries by that of a typical one. ``share`` is a number
    (pruned at the first step) or a schedule; where it falls, nothing comes back. Every weight keeps one group at least.
    The interface is :class:`BlockSparsity`'s; ``penalty()`` is 0.

    Raises TrainError: a share outside [0, 1), and whatever GroupLasso raises.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: GroupsWish,
        share: float | Schedule,
        optimizer: Stepper | None = None,
    ) -> None:
        super().__init__(dense_parts(model, groups, Lasso()), strength=0.0, optimizer=optimizer)
        self._share = as_schedule("share", share)
        self._wanted()
        self._alive = {
            name: torch.ones(part.groups, dtype=torch.bool, device=part.parameter.device)
            for name, part in self._parts.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises TrainError as the penalties do."""
        saved = PruningState.from_dict(state)
        self._restore(saved)
        self._alive = {name: saved.alive[name].to(mask.device) for name, mask in self._alive.items()}

    def _state(self) -> PruningState:
        alive = {name: mask.cpu() for name, mask in self._alive.items()}
        return PruningState(**super()._state().to_dict(), alive=alive)

    def _shrink(self, sizes: list[Tensor]) -> None:
        every = torch.cat([self._rank(name, size) for name, size in zip(self._parts, sizes)])
        count = min(round(self._wanted() * len(every)), len(every) - len(self._parts))  # those that must stay come last
        alive = torch.ones_like(every, dtype=torch.bool)
        alive[every.argsort(stable=True)[:count]] = False
        for (name, part), mask in zip(self._parts.items(), alive.split([len(size) for size in sizes])):
            self._alive[name] &= mask.to(part.parameter.device)
            part.keep(self._alive[name])

    def _rank(self, name: str, sizes: Tensor) -> Tensor:
        """The root mean square of every group; -1 for the pruned ones, whatever the optimizer made of them since, and
        infinity for the largest: one is kept."""
        part = self._parts[name]
        typical = sizes * math.sqrt(part.groups / part.parameter.numel())
        typical = typical.where(self._alive[name].to(sizes.device), -1.0)
        typical[typical.argmax()] = math.inf
        return typical

    def _wanted(self) -> float:
        share = value_at("share", self._share, self._steps)
        if share >= 1:
            raise TrainError("", f"share is {share:g} at step {self._steps}", "a share below 1", "0.8 prunes 80%")
        return share
