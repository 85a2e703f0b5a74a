"""When a penalty is due: once after every step of the optimizer, whatever the loop around it looks like."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from kronfx.errors import TrainError

DEFAULT_LR = 1e-3  # Adam's own default
TINY = 1e-30  # stands in for a learning rate of 0: a threshold that small moves nothing
PATIENCE = 100  # optimizer steps, or values of the penalty, before a step that never comes is missed


class Pace:
    """Counts the steps of an optimizer, and knows the learning rates of the parameters a penalty shrinks.

    With an optimizer a penalty is due once after each of its steps: not while gradients accumulate, not after a step
    that a ``GradScaler`` skipped. Without one, each call counts. A penalty that is stepped twice for one gradient, or
    never, or beside an optimizer that no longer steps, is told so, once.

    Raises TrainError: what is no optimizer, a parameter in no parameter group of it.
    """

    def __init__(self, what: str, parameters: dict[str, nn.Parameter], optimizer: Optimizer | None) -> None:
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            found = f"a {type(optimizer).__name__} where the optimizer belongs"
            raise TrainError("", found, "a torch.optim.Optimizer", "pass the one that trains the model")
        self._what, self._optimizer = what, optimizer
        self._count = _Count(what)
        self._answered: tuple[Tensor | None, int] = (None, 0)
        self._idle, self._twice = 0, False
        self.follow(parameters)
        if optimizer is not None:
            optimizer.register_step_post_hook(self._count)

    def follow(self, parameters: dict[str, nn.Parameter]) -> None:
        """These from now on. Raises TrainError as above, and changes nothing then."""
        _rates(self._optimizer, parameters)
        self._parameters, self._first = parameters, next(iter(parameters.values()))

    def asked(self) -> None:
        """The penalty's value was read: without an optimizer the only sign that a step belongs here."""
        if self._optimizer is None:
            self._count.add()

    def due(self) -> bool:
        """Whether a step is due now; the call answers it."""
        gradient = self._first.grad
        version = 0 if gradient is None else gradient._version
        again = gradient is not None and gradient is self._answered[0] and version == self._answered[1]
        self._answered = gradient, version
        stepped = self._optimizer is None or self._count.pending > 0
        if again and (self._optimizer is None or not stepped):
            self._warn_twice()
            return False
        if stepped:
            self._count.answered()
        self._watch(stepped)
        return stepped

    def rates(self) -> list[float]:
        """``lr`` of every parameter, read anew each time: schedulers and ``load_state_dict`` change the groups."""
        return _rates(self._optimizer, self._parameters)

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
            warnings.warn(f"{text}; {remedy}", stacklevel=5)

    def _warn_twice(self) -> None:
        if not self._twice:
            self._twice = True
            text = f"train: {self._what}.step() came twice for one gradient; the second did nothing"
            warnings.warn(f"{text}; call it once after every optimizer.step()", stacklevel=5)


def _rates(optimizer: Optimizer | None, parameters: dict[str, nn.Parameter]) -> list[float]:
    if optimizer is None:
        return [DEFAULT_LR] * len(parameters)
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in parameters.items():
        if id(parameter) not in rates:
            remedy = "build the optimizer from this very model's parameters, all of them"
            raise TrainError(name, "it is in no parameter group of the optimizer", "every one in a group", remedy)
    return [max(rates[id(parameter)], TINY) for parameter in parameters.values()]


class _Count:
    """Steps of the optimizer that no step of the penalty has answered. The optimizer holds this, not the penalty."""

    def __init__(self, what: str) -> None:
        self.pending, self._what, self._ever = 0, what, False

    def __call__(self, optimizer: Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.add()

    def add(self) -> None:
        self.pending += 1
        if self.pending == PATIENCE and not self._ever:
            self._ever = True
            text = f"train: {PATIENCE} steps of training and {self._what}.step() was never called"
            warnings.warn(f"{text}: nothing becomes zero; call it after every optimizer.step()", stacklevel=2)

    def answered(self) -> None:
        self.pending, self._ever = 0, True
