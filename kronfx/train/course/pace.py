"""When a penalty is due: once after every step of the optimizer, whatever the loop around it looks like."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from kronfx.errors import TrainError, warn
from kronfx.train.course.stepper import Stepper, holds, innermost, listen, rates_of, seek

PATIENCE = 100  # optimizer steps, or values of the penalty, before a step that never comes is missed


class Listener(Protocol):
    """What wants to see the gradients of every optimizer step."""

    def after_step(self) -> None:
        """A step was just taken, and the gradients are still there."""


class Pace:
    """Counts the steps of an optimizer, and knows the learning rates of the parameters a penalty shrinks.

    A penalty is due once after each step: not while gradients accumulate, not after a step that a ``GradScaler``
    skipped. Where no optimizer was given, the one is taken that is seen to step the parameters. One that cannot be
    heard (no ``torch.optim.Optimizer``, but with parameter groups) is taken to step before every call. A penalty that
    is stepped twice for one gradient, or never, or beside an optimizer that no longer steps, is told so, once.

    Raises TrainError: what is no optimizer, a parameter in no parameter group of it.
    """

    _hears: bool  # whether its steps are counted as they come
    _seeking: RemovableHandle | None  # while no optimizer is known

    def __init__(
        self,
        what: str,
        parameters: Mapping[str, nn.Parameter],
        optimizer: object = None,
        listener: Listener | None = None,
    ) -> None:
        self._what, self._listener = what, listener
        self._answered: tuple[Tensor | None, int] = (None, 0)
        self._idle, self._twice = 0, False
        self.optimizer: Stepper | None = None
        if optimizer is not None:
            self.optimizer = innermost(optimizer, parameters)
        self.follow(parameters)
        self._begin(_Count(what))

    def follow(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """These from now on. Raises TrainError as above, and changes nothing then."""
        if self.optimizer is not None:
            rates_of(self.optimizer, parameters)
        self._parameters, self._first = parameters, next(iter(parameters.values()))

    def asked(self) -> None:
        """The penalty's value was read: of an optimizer that is not heard the only sign that a step belongs here."""
        if not self._hears:
            self._count.add()

    def due(self) -> int:
        """How many steps of the optimizer this call answers: 0 where none is due. While no optimizer is known each call
        is one, but after gradients that a GradScaler skips."""
        if self.optimizer is not None and self._seeking is not None:
            self._seeking.remove()
            self._seeking = None
        gradient = self._first.grad
        version = 0 if gradient is None else gradient._version
        again = gradient is not None and gradient is self._answered[0] and version == self._answered[1]
        if self.optimizer is None and gradient is not None and not torch.isfinite(gradient).all():
            return 0
        self._answered = gradient, version
        taken = self._count.pending if self._hears else 1
        if again and not (self._hears and taken):
            self._warn_twice()
            return 0
        if taken:
            self._count.answered()
        self._watch(taken > 0)
        return taken

    def rates(self) -> list[float]:
        """``lr`` of every parameter, read anew each time: schedulers and ``load_state_dict`` change the groups. Raises
        TrainError where no optimizer was given or seen."""
        return rates_of(self.stepper(), self._parameters)

    def stepper(self) -> Stepper:
        """The optimizer. Raises TrainError where none was given or seen."""
        if self.optimizer is None:
            found = f"no optimizer has stepped the parameters that {self._what} acts on"
            needed = "one that holds them all: its learning rate is not known otherwise"
            remedy = "call it after optimizer.step(), build the optimizer after factorize, or pass optimizer="
            raise TrainError("", found, needed, remedy)
        return self.optimizer

    def __getstate__(self) -> dict[str, Any]:
        """A copy hears the optimizer that was copied with it; neither a hook nor a handle can be copied."""
        return {name: value for name, value in vars(self).items() if name not in ("_seeking", "_hears")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin(self._count)

    def _begin(self, count: _Count) -> None:
        """Hear the optimizer, or look for it."""
        self._count = count
        count.listener = None if self._listener is None else weakref.ref(self._listener)
        self._hears = self.optimizer is not None and listen(self.optimizer, count)
        self._seeking = None
        if self.optimizer is None:
            self._seeking = seek(weakref.ref(self), Pace._seen)
            weakref.finalize(self, self._seeking.remove)

    def _seen(self, optimizer: Optimizer) -> None:
        """An optimizer took a step: ours, if it holds our parameters."""
        if self.optimizer is None and holds(optimizer, self._parameters):
            self.optimizer, self._hears = optimizer, listen(optimizer, self._count)
            self._count.add()

    def _watch(self, stepped: bool) -> None:
        """New gradients, and no step of our optimizer: it accumulates, or another one trains the model by now."""
        if self._idle == PATIENCE:
            return
        self._idle = 0 if stepped else self._idle + 1
        if self._idle == PATIENCE:
            text = (
                f"train: {PATIENCE} calls of {self._what}.step() and its optimizer took no step: nothing becomes zero"
            )
            remedy = "where another optimizer trains the model by now, build it anew with that one, and load its state"
            warn(f"{text}; {remedy}")

    def _warn_twice(self) -> None:
        if not self._twice:
            self._twice = True
            text = f"train: {self._what}.step() came twice for one gradient; the second did nothing"
            warn(f"{text}; call it once after every optimizer.step()")


class _Count:
    """Steps of the optimizer that no step of the penalty has answered. The optimizer holds this, not the penalty."""

    def __init__(self, what: str) -> None:
        self.pending, self._what, self._ever = 0, what, False
        self.listener: weakref.ref[Listener] | None = None

    def __call__(self, optimizer: Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.add()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "listener": None}

    def add(self) -> None:
        listener = None if self.listener is None else self.listener()
        if listener is not None:
            listener.after_step()
        self.pending += 1
        if self.pending == PATIENCE and not self._ever:
            self._ever = True
            text = f"train: {PATIENCE} steps of training and {self._what}.step() was never called"
            warn(f"{text}: nothing becomes zero; call it after every optimizer.step()")

    def answered(self) -> None:
        self.pending, self._ever = 0, True
