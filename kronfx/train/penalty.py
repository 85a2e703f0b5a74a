"""What all penalties share: when they step, how strong they are, the target, the frozen zeros, the state.

A penalty is a list of parts, each a tensor in groups (the blocks of a factored layer, the tiles of a dense weight),
and what it does to a group's size. ``task + strength * penalty`` acts through its proximal step, after the optimizer's:
a subgradient step never gives exact zeros.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from kronfx.errors import TrainError
from kronfx.train.pace import Pace
from kronfx.train.schedules import Constant, Schedule, as_schedule, value_at
from kronfx.train.target import Loop, Target, loops


class Part(Protocol):
    """One tensor in groups. Every vector over groups ``[G]`` is flat, whole (never a shard) and in the same order."""

    @property
    def label(self) -> str:
        """How errors name it."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter whose learning rate the shrinking follows."""

    @property
    def signature(self) -> list[int]:
        """What a saved state must have in common with it."""

    @property
    def groups(self) -> int:
        """``G``."""

    def sizes(self) -> Tensor:
        """``[G]``, float32 at least: what the penalty charges each group for."""

    def value(self) -> Tensor:
        """The penalty at strength 1, a scalar."""

    def shrink(self, threshold: float) -> None:
        """The proximal step, ``threshold`` being learning rate times strength."""

    def alive(self) -> Tensor:
        """``[G]`` booleans: which groups are not exactly zero."""

    def keep(self, alive: Tensor) -> None:
        """Zero every group that ``alive [G]`` does not hold."""


class Penalty:
    """The loop around a training; its subclasses say which parts there are."""

    def __init__(
        self,
        parts: dict[str, Part],
        strength: float | Schedule,
        target: Target | None,
        optimizer: Optimizer | None,
    ) -> None:
        self.target, self.optimizer = target, optimizer
        _require_values(parts)
        self._all, self._parts = parts, {name: p for name, p in parts.items() if p.parameter.requires_grad}
        if not self._parts:
            found = "everything it could shrink is frozen"
            raise TrainError("", found, "a parameter that requires a gradient", "call requires_grad_() on those")
        self._schedule = as_schedule("strength", strength)
        self._loops: dict[str, Loop] = {} if target is None else self._closed(target)
        self._pace = Pace(type(self).__name__, {p.label: p.parameter for p in self._parts.values()}, optimizer)
        self._steps, self._kept, self._dead = 0, dict[str, Tensor](), set[str]()

    @property
    def strength(self) -> float:
        """As it is now: the schedule's value, or the strength that the target has found (of several, the largest)."""
        found = [loop.strength for loop in self._loops.values()]
        return max(found) if found else value_at("strength", self._schedule, self._steps)

    @property
    def frozen(self) -> bool:
        """Whether :meth:`freeze` was called."""
        return bool(self._kept)

    def penalty(self) -> Tensor:
        """``strength * penalty``, a scalar without gradient: the objective's value, which ``step`` brings down.

        0 once frozen: nothing is charged any more.
        """
        self._pace.asked()
        return self._charge()

    @torch.no_grad()
    def step(self) -> None:
        """The proximal step. Call it after every ``optimizer.step()``; where none came, it does nothing."""
        if not self._pace.due():
            return
        if self._kept:
            self._keep()
        else:
            sizes = self._sizes()
            self._check(sizes)
            self._shrink(sizes)
        self._steps += 1

    def sparsity(self) -> float:
        """The share in [0, 1] of the groups that are exactly zero, over all parts."""
        counted = self.layers().values()
        return sum(zero for zero, _ in counted) / sum(groups for _, groups in counted)

    @torch.no_grad()
    def layers(self) -> dict[str, tuple[int, int]]:
        """``(zero groups, groups)`` of every part."""
        return {name: (part.groups - int(part.alive().sum()), part.groups) for name, part in self._all.items()}

    @torch.no_grad()
    def freeze(self) -> None:
        """Fix the zero groups: from now on ``step`` keeps them zero, shrinks nothing, and the rest recovers.

        Where a target is not reached yet, the smallest groups are cut off until it is, with a warning.
        """
        for where, loop in self._loops.items():
            self._cut(where, loop)
        self._kept = {name: part.alive() for name, part in self._parts.items()}
        self._keep()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to come to the same numbers: plain values and masks."""
        return {
            "parts": {name: part.signature for name, part in self._all.items()},
            "steps": self._steps,
            "loops": {name: [loop.strength, loop.best, loop.waited] for name, loop in self._loops.items()},
            "kept": {name: mask.cpu() for name, mask in self._kept.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises TrainError where the state is no ``state_dict()``, or of another model, plan or
        number of targets; nothing is changed then."""
        require_state(state, self.state_dict())
        mine = {name: part.signature for name, part in self._all.items()}
        theirs = state["parts"]
        for name in [*mine, *theirs]:
            if mine.get(name) != theirs.get(name):
                found = f"the saved state has {theirs.get(name, 'no such layer')}, this model {mine.get(name, 'none')}"
                raise TrainError(name, found, "the plan it was saved with", "factorize by that plan, then resume")
        if set(state["loops"]) != set(self._loops):
            found = f"the saved state has targets for {_named(state['loops'])}, this one for {_named(self._loops)}"
            raise TrainError("", found, "the same", "pass the target it was saved with")
        for name in state["kept"]:
            if name not in self._parts:
                remedy = "call requires_grad_() on it first"
                raise TrainError(
                    self._all[name].label,
                    "zeros frozen in training, of what is frozen now",
                    "all that was trained",
                    remedy,
                )
        for name, values in state["loops"].items():
            loop = self._loops[name]
            loop.strength, loop.best, loop.waited = values
        self._steps = state["steps"]
        self._kept = {name: mask.to(self._parts[name].parameter.device) for name, mask in state["kept"].items()}

    @torch.no_grad()
    def _charge(self) -> Tensor:
        values = torch.stack(_together([part.value() for part in self._parts.values()]))
        return values.new_zeros(()) if self._kept else values @ values.new_tensor(self._strengths())

    def _sizes(self) -> list[Tensor]:
        return _together([part.sizes() for part in self._parts.values()])

    def _strengths(self) -> list[float]:
        if self.target is None:
            return [self.strength] * len(self._parts)
        of = {name: loop.strength for loop in self._loops.values() for name in loop.names}
        return [of.get(name, 0.0) for name in self._parts]

    def _shrink(self, sizes: list[Tensor]) -> None:
        for part, threshold in zip(self._parts.values(), self._thresholds(sizes)):
            part.shrink(threshold)

    def _thresholds(self, sizes: list[Tensor]) -> list[float]:
        """Learning rate times strength, for every part."""
        rates = dict(zip(self._parts, self._pace.rates()))
        if self.target is None:
            return [rate * self.strength for rate in rates.values()]
        named = dict(zip(self._parts, sizes))
        found = dict.fromkeys(self._parts, 0.0)
        for loop in self._loops.values():
            of_loop = [rates[name] for name in loop.names]
            strength = loop.toward([named[name] for name in loop.names], of_loop)
            found |= {name: rates[name] * strength for name in loop.names}
        return list(found.values())

    def _cut(self, where: str, loop: Loop) -> None:
        """Zero the smallest groups of a target that the shrinking has not reached."""
        parts = [self._parts[name] for name in loop.names]
        sizes = _together([part.sizes() * part.alive() for part in parts])
        every = torch.cat(sizes)
        zero = int((every == 0).sum())
        if zero >= loop.count:
            return
        alive = torch.ones_like(every, dtype=torch.bool)
        alive[every.argsort(stable=True)[: loop.count]] = False
        for part, kept in zip(parts, alive.split([part.groups for part in parts])):
            part.keep(kept.to(part.parameter.device))
        text = (
            f"train: {where or 'the model'} is frozen with {zero} of {len(every)} groups shrunk to zero; the smallest"
        )
        remedy = "freeze later or start from a larger strength to have them chosen in training"
        warnings.warn(
            f"{text} {loop.count - zero} were cut off to meet the target {loop.target:g}; {remedy}", stacklevel=4
        )

    def _closed(self, target: Target) -> dict[str, Loop]:
        if not isinstance(self._schedule, Constant):
            remedy = "leave the schedule out: a target finds its own strength"
            raise TrainError("", "a target and a schedule of the strength", "one of the two", remedy)
        groups = {name: part.groups for name, part in self._parts.items()}
        return loops(target, groups, self._schedule.value)

    def _check(self, sizes: list[Tensor]) -> None:
        """One reading of all sums, since on a GPU each reading waits: NaN and infinities stop, an empty layer warns."""
        for (name, part), total in zip(self._parts.items(), torch.stack([size.sum() for size in sizes]).tolist()):
            if not math.isfinite(total):
                remedy = "lower the learning rate or clip the gradient, and resume from before it diverged"
                raise TrainError(part.label, "NaN or infinite entries", "finite values to shrink", remedy)
            if total == 0 and name not in self._dead:
                self._dead.add(name)
                text = f"train: {part.label}: all of its groups are zero, its output is its bias"
                warnings.warn(f"{text}; lower the strength, or give it a target of its own", stacklevel=4)

    def _keep(self) -> None:
        for name, alive in self._kept.items():
            self._parts[name].keep(alive)


def require_state(state: object, like: Mapping[str, object]) -> None:
    """Raise TrainError where a saved state has not everything that one of ours has."""
    missing = [key for key in like if key not in state] if isinstance(state, Mapping) else list(like)
    if missing:
        remedy = "pass what state_dict() of the same class returned"
        raise TrainError("", f"a saved state without {', '.join(missing)}", f"one with {', '.join(like)}", remedy)


def _require_values(parts: Mapping[str, Part]) -> None:
    for part in parts.values():
        if part.parameter.is_meta:
            raise TrainError(part.label, "a tensor on the meta device", "values", "call to_empty() and load them first")


def _together(values: list[Tensor]) -> list[Tensor]:
    """On the device of the first: the parts of a model may live on several."""
    return [value.to(values[0].device) for value in values]


def _named(loops: Iterable[str]) -> str:
    return ", ".join(name or "the whole model" for name in loops) or "nothing"


def whole(x: Tensor) -> Tensor:
    """The tensor itself, or, where FSDP2 keeps it in shards, all of it."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def placed(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor in the type and, where ``like`` is in shards, in the shards of ``like``."""
    x = x.to(like.dtype)
    return distribute_tensor(x, like.device_mesh, like.placements) if isinstance(like, DTensor) else x
