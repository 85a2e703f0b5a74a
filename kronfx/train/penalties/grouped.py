"""What all penalties share that act on groups: when they step, how strong they are, the target, the frozen zeros.

Such a penalty is a list of parts, each a tensor in groups (the blocks of a factored layer, the tiles of a dense
weight), and what it does to a group's size. ``task + strength * penalty`` acts through its proximal step, after the
optimizer's: a subgradient step never gives exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.errors import TrainError, warn
from kronfx.layers import require_module
from kronfx.train.course.loop import Loop, loops
from kronfx.train.course.pace import Listener, Pace
from kronfx.train.course.ramp import Course, Watch
from kronfx.train.course.schedules import Constant, Schedule, as_schedule, value_at
from kronfx.train.course.stepper import Stepper
from kronfx.train.course.survivors import at_floor, survivors
from kronfx.train.course.target import Goal, Target, goals
from kronfx.train.parts.part import Part, require_values, trained, twins
from kronfx.train.parts.tensors import together
from kronfx.train.penalties.penalty import Penalty
from kronfx.train.penalties.remarks import Remarks
from kronfx.train.state import State, require_same_parts, require_same_targets

SETTLED = 100  # steps, after which a learning rate has warmed up


@dataclass(frozen=True, kw_only=True)
class PenaltyState(State):
    """Of every part what it must have in common, and its remainders; of every target its loop; the frozen zeros."""

    parts: dict[str, list[int]]
    steps: int
    loops: dict[str, list[float]]
    kept: dict[str, Tensor]
    rests: dict[str, Tensor]


class GroupPenalty(Penalty):
    """The loop around a training; its subclasses say which parts there are.

    With a ``course`` it freezes itself at its end.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        *,
        strength: float | Schedule,
        target: Target | None = None,
        optimizer: Stepper | None = None,
        course: Course | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.target, self._course = target, course
        self._watch = None if course is None else Watch(course)
        require_values(parts)
        self._all, self._parts = parts, trained(parts)
        self._schedule = as_schedule("strength", strength)
        self._goals: dict[str, Goal] = {}
        if target is not None:
            self._goals = goals(target, {name: part.groups for name, part in self._parts.items()})
        self._loops: dict[str, Loop] = self._closed()
        following = {part.label: part.parameter for part in self._parts.values()}
        self._pace = Pace(type(self).__name__, following, optimizer, listener)
        self._steps, self._stays = 0, dict[str, Tensor]()  # of every part, once frozen: the groups that are not zero
        self._remarks = Remarks(self._parts)

    @property
    def strength(self) -> float:
        """As it is now: the schedule's value, or the strength that the target has found (of several, the largest)."""
        return max(self.strengths().values(), default=value_at("strength", self._schedule, self._steps))

    def strengths(self) -> dict[str, float]:
        """That of every target, by the layer, "" being the whole model; empty without a target to find it for."""
        return {name: loop.strength for name, loop in self._loops.items()}

    @property
    def frozen(self) -> bool:
        """Whether the zero groups are fixed: :meth:`freeze` was called, or ``steps`` had come that far."""
        return bool(self._stays)

    def penalty(self) -> Tensor:
        """``strength * penalty``, a scalar without gradient: the objective's value, which ``step`` brings down.

        0 once frozen: nothing is charged any more.
        """
        self._pace.asked()
        return self._charge()

    @torch.no_grad()
    def step(self) -> None:
        """The proximal step. Call it after every ``optimizer.step()``; where none came, it does nothing."""
        taken = self._pace.due()
        if not taken:
            return
        if self.frozen:
            self._rezero()
        else:
            sizes = self._sizes()
            self._check(sizes)
            self._shrink(sizes)
            if self._steps == SETTLED and self._course is None:
                self._remarks.coarse(self._pace.rates())
        self._steps += taken
        if self._course is not None and self._watch is not None:
            self._watch.step(self._steps, self._pace.rates())
            if self._steps >= self._course.end and not self.frozen:
                self.freeze()

    @torch.no_grad()
    def layers(self) -> dict[str, tuple[int, int]]:
        """``(zero groups, groups)`` of every part."""
        return {name: (part.groups - int(part.alive().sum()), part.groups) for name, part in self._all.items()}

    @torch.no_grad()
    def freeze(self) -> None:
        """Fix the zero groups: from now on ``step`` keeps them zero, shrinks nothing, and the rest recovers.

        Where a target is not reached yet, the smallest groups are cut off until it is, with a warning.
        """
        for where, goal in self._goals.items():
            self._cut(where, goal)
        self._stays = {name: part.present() for name, part in self._parts.items()}
        self._rezero()

    @property
    def reached(self) -> bool:
        """Whether the zeros are those asked for: frozen, or as many as every target wants."""
        alive = {name: int(part.present().sum()) for name, part in self._parts.items()}
        groups = {name: part.groups - alive[name] for name, part in self._parts.items()}
        enough = (sum(groups[name] for name in goal.names) >= goal.count for goal in self._goals.values())
        return self.frozen or (bool(self._goals) and all(enough))

    @torch.no_grad()
    def apply_to(self, model: nn.Module) -> None:
        """Zero the groups of another model that are zero in the one that trains: an average of its weights (EMA, SWA),
        where they are only small, or an earlier checkpoint.

        ::

            ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
            ...
            sparsity.apply_to(ema)  # before it is evaluated, saved or folded

        Raises TrainError where a part has no counterpart in that model, which is left untouched then.
        """
        require_module(model, TrainError)
        for part, other in twins(self._parts.values(), model):
            other.keep(part.present().to(other.parameter.device))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises TrainError where the state is no ``state_dict()``, or of another model, plan or
        number of targets; nothing is changed then."""
        self._restore(PenaltyState.from_dict(state))

    def resume_at(self, steps: int, strengths: Mapping[str, float]) -> None:
        """Go on after so many steps of the optimizer where no state was saved; of targets that are named here the
        strength they had found is known."""
        self._steps = steps
        for name, loop in self._loops.items():
            loop.strength = strengths.get(name, loop.strength)

    def _state(self) -> PenaltyState:
        return PenaltyState(
            parts={name: part.signature for name, part in self._all.items()},
            steps=self._steps,
            loops={name: loop.state() for name, loop in self._loops.items()},
            kept={name: mask.cpu() for name, mask in self._stays.items()},
            rests={f"{name}/{key}": x for name, part in self._all.items() for key, x in part.carry.state().items()},
        )

    def _restore(self, state: PenaltyState) -> None:
        require_same_parts(state.parts, {name: part.signature for name, part in self._all.items()})
        require_same_targets(state.loops, self._loops)
        for name in state.kept:
            if name not in self._parts:
                found, needed = "zeros frozen in training, of what is frozen now", "all that was trained"
                raise TrainError(self._all[name].label, found, needed, "call requires_grad_() on it first")
        for name, values in state.loops.items():
            self._loops[name].restore(values)
        for path, rest in state.rests.items():
            name, _, key = path.rpartition("/")
            self._all[name].carry.restore(key, rest)
        self._steps = state.steps
        self._stays = {name: mask.to(self._parts[name].parameter.device) for name, mask in state.kept.items()}

    @torch.no_grad()
    def _charge(self) -> Tensor:
        values = torch.stack(together([part.value() for part in self._parts.values()]))
        return values.new_zeros(()) if self.frozen else values @ values.new_tensor(self._strengths())

    def _sizes(self) -> list[Tensor]:
        return together([part.sizes() for part in self._parts.values()])

    def _strengths(self) -> list[float]:
        """Of every part."""
        if not self._loops:
            return [self.strength] * len(self._parts)
        of = {name: loop.strength for loop in self._loops.values() for name in loop.goal.names}
        return [of.get(name, 0.0) for name in self._parts]

    def _shrink(self, sizes: list[Tensor]) -> None:
        for part, threshold in zip(self._parts.values(), self._thresholds(sizes)):
            part.shrink(threshold)

    def _thresholds(self, sizes: list[Tensor]) -> list[float]:
        """Learning rate times strength, for every part."""
        rates = dict(zip(self._parts, self._pace.rates()))
        if not self._loops:
            return [rate * self.strength for rate in rates.values()]
        sizes_of = dict(zip(self._parts, sizes))
        thresholds = dict.fromkeys(self._parts, 0.0)
        for loop in self._loops.values():
            names = loop.goal.names
            limited, bound = loop.thresholds([sizes_of[name] for name in names], [rates[name] for name in names])
            thresholds |= dict(zip(names, limited))
            self._remarks.low(loop.goal, bound)
        return list(thresholds.values())

    def _ranks(self, names: Sequence[str]) -> list[Tensor]:
        """``[G]`` for each of these parts: of what has to go, the lowest goes first."""
        return [self._parts[name].sizes() * self._parts[name].present() for name in names]

    def _cut(self, where: str, goal: Goal) -> None:
        """Zero the lowest groups of a target that is not reached yet."""
        groups = sum(self._parts[name].groups for name in goal.names)
        zero = groups - sum(int(self._parts[name].present().sum()) for name in goal.names)
        if zero >= goal.count:
            return
        self._cut_lowest(goal, goal.count)
        text = f"train: {where or 'the model'} is frozen with {zero} of {groups} groups shrunk to zero; the smallest"
        remedy = "freeze later or start from a larger strength to have them chosen in training"
        warn(f"{text} {goal.count - zero} were cut off to meet the target {goal.target:g}; {remedy}")

    def _cut_lowest(self, goal: Goal, count: int) -> None:
        """Zero the ``count`` lowest groups of a goal, and say where a floor stood in the way."""
        ranks = self._ranks(goal.names)
        alive = survivors(ranks, count, goal.floors)
        for name, mask in zip(goal.names, alive):
            self._parts[name].keep(mask.to(self._parts[name].parameter.device))
        self._remarks.low(goal, at_floor(ranks, alive))

    def _closed(self) -> dict[str, Loop]:
        """A loop for every target."""
        if not self._goals:
            return {}
        if not isinstance(self._schedule, Constant):
            remedy = "leave the schedule out: a target finds its own strength"
            raise TrainError("", "a target and a schedule of the strength", "one of the two", remedy)
        return loops(self._goals, self._schedule.value)

    def _check(self, sizes: list[Tensor]) -> None:
        """One reading of all sums, since on a GPU each reading waits: NaN and infinities stop, an empty layer warns."""
        for (name, part), total in zip(self._parts.items(), torch.stack([size.sum() for size in sizes]).tolist()):
            if not math.isfinite(total):
                remedy = "lower the learning rate or clip the gradient, and resume from before it diverged"
                raise TrainError(part.label, "NaN or infinite entries", "finite values to shrink", remedy)
            if total == 0:
                self._remarks.empty(name)

    def _rezero(self) -> None:
        """Zero what is frozen as zero and the optimizer has moved."""
        for name, stays in self._stays.items():
            self._parts[name].keep(stays)
