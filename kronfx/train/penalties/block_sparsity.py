"""Blocks of ``W`` that become exactly zero while the model trains: along a ramp to a target, or by L1 on ``S``.

**The ramp** (``steps=``) zeroes at every step as many blocks as its schedule asks for, those that the loss feels least
(:class:`~kronfx.train.penalties.sensitivity.Sensitivity`), and freezes them at its end: ``kronfx/decisions/ramp.md``.

**L1.** The objective is ``task + strength * sum over layers of ||S||_1`` (paper, Eq. 4). A subgradient step never
gives exact zeros, so the L1 part acts through its proximal step, after the optimizer's:
``S <- sign(S) max(|S| - lr strength, 0)``.

**The L1 norm needs company.** Only ``S * A`` matters, so ``S`` can shrink for free while ``A`` grows. Each step ends
with ``S`` brought back to a root mean square of 1 in every layer, ``A`` taking the factor: ``W`` stays, and L1 at a
fixed L2 norm rewards few blocks instead of small ones. The scale of ``A`` and ``B`` is the task's alone.

**Freezing matters more than what holds the scale.** Shrinking takes from every block at every step: shrink for four to
six tenths of a training, then freeze. Both in numbers: ``kronfx/decisions/scale_of_s.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kronfx.errors import TrainError
from kronfx.layers import kronecker_layers, require_module
from kronfx.train.course.loop import Loop
from kronfx.train.course.ramp import END, Ramp
from kronfx.train.course.schedules import Schedule
from kronfx.train.course.stepper import Stepper
from kronfx.train.course.target import Target
from kronfx.train.parts.factored import FactoredPart
from kronfx.train.parts.part import trained
from kronfx.train.parts.shrinkage import Shrinkage, as_shrinkage
from kronfx.train.penalties.grouped import GroupPenalty, PenaltyState
from kronfx.train.penalties.sensitivity import Sensitivity
from kronfx.train.unfactored import unfactored

STRENGTH = 0.1  # of the penalty, or where the search of a target for its own begins


@dataclass(frozen=True, kw_only=True)
class RampState(PenaltyState):
    """The penalties', the length of the ramp, and what it has felt of the blocks."""

    ramp: int
    sensitivity: dict[str, Tensor]


class BlockSparsity(GroupPenalty):
    """Drives blocks of every factored layer's ``W`` to exact zero while any optimizer trains the model.

    ::

        loss = task + sparsity.penalty()
        loss.backward()
        optimizer.step()
        sparsity.step()

    With a ``target`` in (0, 1), the share of blocks that are to be zero, and ``steps``, the optimizer's steps of the
    whole training, nothing else is needed::

        sparsity = kx.train.BlockSparsity(model, target=0.8, optimizer=optimizer, steps=epochs * len(batches))

    The share of zero blocks rises along a cubic from a fifth of the steps to seven tenths, is the target there, and is
    frozen: the zeros stay, and the rest recovers. The blocks that go are those the loss feels least, whatever layer
    they are in; nothing is charged, so that ``penalty()`` and ``strength`` are 0. A mapping from names or globs to
    shares gives layers targets of their own, and leaves the layers it does not name alone. Under a target of the whole
    model every layer keeps at least one block, and at least a tenth of the share that the target leaves; other layers
    give the rest, and a warning names the layer.

    Without ``steps``, ``strength`` is the ``lambda`` of ``task + lambda sum ||S||_1`` (0.1 unless given), a number or a
    schedule (any function from the optimizer's steps to a number: ``Constant``, ``Stepped``, ``Linear``, ``Cosine``);
    one step shrinks every ``|S[p, j]|`` by ``lr strength``, ``lr`` being that of the parameter group which holds ``S``,
    as it is at that step. Under Adam it is a share of Adam's own step (``kronfx/decisions/scale_of_s.md``). With a
    ``target`` the strength is found, and the given one is where it starts: it grows by 0.5% a step (twofold in 140)
    while the share is below, and no step shrinks further than reaching the target takes. Once there the share holds; a
    block may still change places with another. ``freeze()`` ends the shrinking.

    ``shrinkage`` is what a block is charged for, ``|S[p, j]|`` by ``Lasso()`` unless given. ``Elastic(ridge)`` divides
    ``S`` by ``1 + lr strength ridge`` besides; the scale of ``S`` being held, ``A`` takes it, and all of ``W`` decays.

    A step is taken once for each of the optimizer's: none while gradients accumulate, none after a step that a
    ``GradScaler`` skipped. Without ``optimizer`` it is the one seen to step every ``S``; a wrapper is unwrapped.

    A layer whose ``S`` is frozen (``requires_grad`` False when this is built) keeps its values, and the target is a
    share of the other layers' blocks. A map that starts as zero, all of its ``A`` or of its ``B``, counts as zero while
    it is, and loses no block for it: there ``S`` says which blocks are gone.

    Raises TrainError: no factored layer, or all of them frozen; a strength that is negative or not finite (or 0 or a
    schedule with a target); a target outside (0, 1), that no number of blocks comes within a percentage point of, or
    that leaves a layer nothing; ``steps`` without a target, with a strength or a shrinkage, or fewer than 20; what is
    no shrinkage; an optimizer that holds not every ``S``, as one built before ``factorize``; and, at any step, an ``S``
    with NaN or infinite entries, or no optimizer that was given or seen.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float | Schedule | None = None,
        target: Target | None = None,
        optimizer: Stepper | None = None,
        steps: int | None = None,
        shrinkage: Shrinkage | None = None,
    ) -> None:
        require_module(model, TrainError)
        charge = as_shrinkage(shrinkage)
        parts = {name: FactoredPart(name, layer, charge) for name, layer in kronecker_layers(model).items()}
        if not parts:
            raise unfactored()
        for option, wish in (("strength", strength), ("shrinkage", shrinkage)):
            if steps is not None and wish is not None:
                found, needed = f"steps={steps!r} and {option}={wish!r}", "the ramp of a known length charges nothing"
                raise TrainError("", found, f"one of the two: {needed}", "leave one out")
        self._layers = [part.layer for part in trained(parts).values()]
        self._ramp = None if steps is None else Ramp(steps=steps, share=END, target=target)
        self._sensitivity = None if self._ramp is None else Sensitivity(trained(parts))
        strength = (0.0 if self._ramp else STRENGTH) if strength is None else strength
        super().__init__(
            parts, strength=strength, target=target, optimizer=optimizer, course=self._ramp, listener=self._sensitivity
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises TrainError as the penalties do, and where the saved ramp, not yet at its end, is of
        another length."""
        ramped = self._ramp is not None or (isinstance(state, Mapping) and "ramp" in state)
        saved = (RampState if ramped else PenaltyState).from_dict(state)
        mine = None if self._ramp is None else self._ramp.steps
        theirs = saved.ramp if isinstance(saved, RampState) else None
        if mine != theirs and not saved.kept:
            found = f"the saved state is of steps={theirs}, this one of steps={mine}"
            raise TrainError("", found, "the same: a ramp does not change its pace midway", f"pass steps={theirs}")
        self._restore(saved)
        if self._sensitivity is not None and isinstance(saved, RampState):
            self._sensitivity.restore(saved.sensitivity)

    def freeze(self) -> None:
        super().freeze()
        self._skip_zeros()

    def _restore(self, state: PenaltyState) -> None:
        super()._restore(state)
        self._skip_zeros()

    def _skip_zeros(self) -> None:
        """Zeros that stay need not be multiplied, where that pays."""
        for layer in self._layers if self.frozen else ():
            if layer.skipping is None:
                layer.skip_zeros(forced=False)

    def _state(self) -> PenaltyState:
        state = super()._state()
        if self._ramp is None or self._sensitivity is None:
            return state
        return RampState(**state.to_dict(), ramp=self._ramp.steps, sensitivity=self._sensitivity.state())

    def _closed(self) -> dict[str, Loop]:
        return super()._closed() if self._ramp is None else {}

    def _shrink(self, sizes: list[Tensor]) -> None:
        if self._ramp is None:
            super()._shrink(sizes)
            return
        for goal in self._goals.values():
            count = self._ramp.count(goal.count, self._steps + 1)
            if count:
                self._cut_lowest(goal, count)

    def _ranks(self, names: Sequence[str]) -> list[Tensor]:
        if self._sensitivity is None:
            return super()._ranks(names)
        return [self._sensitivity.of(name) * self._parts[name].present() for name in names]
