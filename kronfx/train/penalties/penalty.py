"""What all penalties share: when they step, how strong they are, the target, the frozen zeros, the state.

A penalty is a list of parts, each a tensor in groups (the blocks of a factored layer, the tiles of a dense weight),
and what it does to a group's size. ``task + strength * penalty`` acts through its proximal step, after the optimizer's:
a subgradient step never gives exact zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from kronfx.train.state import require_same_parts, require_same_targets, require_state

SETTLED = 100  # steps, after which a learning rate has warmed up


class Penalty:
    """The loop around a training; its subclasses say which parts there are.

    With a ``course`` it freezes itself at its end.
    """

    def __init__(
        self,
        parts: dict[str, Part],
        strength: float | Schedule,
        target: Target | None,
        optimizer: Stepper | None,
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
        self._steps, self._kept, self._dead, self._low = 0, dict[str, Tensor](), set[str](), set[str]()

    @property
    def optimizer(self) -> Any:
        """The one that steps the parameters: given, or seen to do so; below its wrappers. None while there is none."""
        return self._pace.optimizer

    @property
    def strength(self) -> float:
        """As it is now: the schedule's value, or the strength that the target has found (of several, the largest)."""
        found = [loop.strength for loop in self._loops.values()]
        return max(found) if found else value_at("strength", self._schedule, self._steps)

    @property
    def frozen(self) -> bool:
        """Whether the zero groups are fixed: :meth:`freeze` was called, or ``steps`` had come that far."""
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
        taken = self._pace.due()
        if not taken:
            return
        if self._kept:
            self._keep()
        else:
            sizes = self._sizes()
            self._check(sizes)
            self._shrink(sizes)
            self._tell_coarse()
        self._steps += taken
        if self._course is not None and self._watch is not None:
            self._watch.step(self._steps, self._pace.rates())
            if self._steps >= self._course.end and not self._kept:
                self.freeze()

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
        for where, goal in self._goals.items():
            self._cut(where, goal)
        self._kept = {name: part.present() for name, part in self._parts.items()}
        self._keep()

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

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to come to the same numbers: plain values and masks."""
        return {
            "parts": {name: part.signature for name, part in self._all.items()},
            "steps": self._steps,
            "loops": {name: [loop.strength, loop.best, loop.waited] for name, loop in self._loops.items()},
            "kept": {name: mask.cpu() for name, mask in self._kept.items()},
            "rests": {f"{name}/{key}": x for name, part in self._all.items() for key, x in part.carry.state().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises TrainError where the state is no ``state_dict()``, or of another model, plan or
        number of targets; nothing is changed then."""
        require_state(state, self.state_dict())
        require_same_parts(state["parts"], {name: part.signature for name, part in self._all.items()})
        require_same_targets(state["loops"], self._loops)
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
        for path, rest in state["rests"].items():
            name, _, key = path.rpartition("/")
            self._all[name].carry.restore(key, rest)
        self._steps = state["steps"]
        self._kept = {name: mask.to(self._parts[name].parameter.device) for name, mask in state["kept"].items()}

    @torch.no_grad()
    def _charge(self) -> Tensor:
        values = torch.stack(together([part.value() for part in self._parts.values()]))
        return values.new_zeros(()) if self._kept else values @ values.new_tensor(self._strengths())

    def _sizes(self) -> list[Tensor]:
        return together([part.sizes() for part in self._parts.values()])

    def _strengths(self) -> list[float]:
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
        named = dict(zip(self._parts, sizes))
        found = dict.fromkeys(self._parts, 0.0)
        for loop in self._loops.values():
            names = loop.goal.names
            thresholds, bound = loop.thresholds([named[name] for name in names], [rates[name] for name in names])
            found |= dict(zip(names, thresholds))
            self._tell_low(loop.goal, bound)
        return list(found.values())

    def _ranks(self, names: Sequence[str]) -> list[Tensor]:
        """``[G]`` for each of these parts: of what has to go, the lowest goes first."""
        return [self._parts[name].sizes() * self._parts[name].present() for name in names]

    def _cut(self, where: str, goal: Goal) -> None:
        """Zero the lowest groups of a target that is not reached yet."""
        groups = sum(self._parts[name].groups for name in goal.names)
        zero = groups - sum(int(self._parts[name].present().sum()) for name in goal.names)
        if zero >= goal.count:
            return
        self._keep_highest(goal, goal.count)
        text = f"train: {where or 'the model'} is frozen with {zero} of {groups} groups shrunk to zero; the smallest"
        remedy = "freeze later or start from a larger strength to have them chosen in training"
        warn(f"{text} {goal.count - zero} were cut off to meet the target {goal.target:g}; {remedy}")

    def _keep_highest(self, goal: Goal, count: int) -> None:
        """Zero the ``count`` lowest groups of a goal, and say where a floor stood in the way."""
        ranks = self._ranks(goal.names)
        alive = survivors(ranks, count, goal.floors)
        for name, mask in zip(goal.names, alive):
            self._parts[name].keep(mask.to(self._parts[name].parameter.device))
        self._tell_low(goal, at_floor(ranks, alive))

    def _closed(self) -> dict[str, Loop]:
        """A loop for every target."""
        if not self._goals:
            return {}
        if not isinstance(self._schedule, Constant):
            remedy = "leave the schedule out: a target finds its own strength"
            raise TrainError("", "a target and a schedule of the strength", "one of the two", remedy)
        return loops(self._goals, self._schedule.value)

    def _tell_low(self, goal: Goal, bound: Sequence[bool]) -> None:
        for name, floor, low in zip(goal.names, goal.floors, bound):
            if low and len(goal.names) > 1 and name not in self._low:
                self._low.add(name)
                part = self._parts[name]
                text = f"train: {part.label}: {floor} of its {part.groups} groups stay, whatever they are worth"
                remedy = f"give it a target of its own to go further than the whole model's {goal.target:g}"
                warn(f"{text}, and other layers give the rest; {remedy}")

    def _tell_coarse(self) -> None:
        """What shrinking loses to rounding is carried on; what the optimizer loses is not ours to carry."""
        if self._steps != SETTLED or self._course is not None:
            return
        for part, rate in zip(self._parts.values(), self._pace.rates()):
            least = part.carry.least_step(part.parameter)
            if rate < least:
                dtype = str(part.parameter.dtype).removeprefix("torch.")
                text = f"train: {part.label}: what it shrinks is {dtype} and holds no steps below {least:.2g}"
                remedy = "keep parameters in float32 under torch.autocast, or give BlockSparsity steps= and a target"
                warn(f"{text}; most of the optimizer's, of about {rate:.2g}, are rounded away; {remedy}")

    def _check(self, sizes: list[Tensor]) -> None:
        """One reading of all sums, since on a GPU each reading waits: NaN and infinities stop, an empty layer warns."""
        for (name, part), total in zip(self._parts.items(), torch.stack([size.sum() for size in sizes]).tolist()):
            if not math.isfinite(total):
                remedy = "lower the learning rate or clip the gradient, and resume from before it diverged"
                raise TrainError(part.label, "NaN or infinite entries", "finite values to shrink", remedy)
            if total == 0 and name not in self._dead:
                self._dead.add(name)
                text = f"train: {part.label}: all of its groups are zero, its output is its bias"
                warn(f"{text}; lower the strength, or give it a target of its own")

    def _keep(self) -> None:
        for name, alive in self._kept.items():
            self._parts[name].keep(alive)
