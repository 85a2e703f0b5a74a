"""Which optimizer steps the parameters of a penalty: the given one below its wrappers, or the one seen to step them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from kronfx.errors import TrainError

INNER = "optimizer", "base_optimizer"  # where accelerate, Lightning and Lookahead-like wrappers keep what they wrap
TINY = 1e-30  # stands in for a learning rate of 0: a threshold that small moves nothing

Hook = Callable[[Optimizer, Any, Any], None]


class Stepper(Protocol):
    """What has parameter groups, each with its ``lr``: torch's optimizers, and what stands in for one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """As ``torch.optim.Optimizer``'s."""


def innermost(optimizer: object, parameters: Mapping[str, nn.Parameter]) -> Stepper:
    """The optimizer that steps all of the parameters, below any wrapper. Raises TrainError: what has no parameter
    groups, or not all of the parameters in them."""
    if not isinstance(getattr(optimizer, "param_groups", None), list):
        found = f"a {type(optimizer).__name__} where the optimizer belongs"
        raise TrainError("", found, "a torch.optim.Optimizer", "pass the one that trains the model")
    stepper = cast(Stepper, optimizer)
    rates_of(stepper, parameters)
    for name in INNER:
        inner = getattr(optimizer, name, None)
        if isinstance(getattr(inner, "param_groups", None), list) and holds(cast(Stepper, inner), parameters):
            return innermost(inner, parameters)
    return stepper


def holds(optimizer: Stepper, parameters: Mapping[str, nn.Parameter]) -> bool:
    """Whether all of them are in its groups."""
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return all(id(parameter) in stepped for parameter in parameters.values())


def rates_of(optimizer: Stepper, parameters: Mapping[str, nn.Parameter]) -> list[float]:
    """``lr`` of every parameter, as it is now. Raises TrainError where one is in no group."""
    rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in rates]
    if missing and len(missing) == len(parameters):
        found = f"all of {', '.join(missing)} is in no parameter group of the optimizer"
        needed = "an optimizer of this model's own parameters: this one is of another model, or as old as the dense one"
        raise TrainError("", found, needed, "build the optimizer after factorize")
    for name in missing:
        remedy = "build the optimizer from this very model's parameters, all of them"
        raise TrainError(name, "it is in no parameter group of the optimizer", "every one in a group", remedy)
    return [max(rates[id(parameter)], TINY) for parameter in parameters.values()]


def listen(optimizer: Stepper, hook: Hook) -> bool:
    """Have every step of it tell the hook; False where it has no hooks to do so."""
    if not isinstance(optimizer, Optimizer):
        return False
    try:
        optimizer.register_step_post_hook(hook)
    except AttributeError:  # a wrapper that is an Optimizer by name, and never was initialized as one
        return False
    return True


def seek(seeker: weakref.ref[Any], take: Callable[[Any, Optimizer], None]) -> RemovableHandle:
    """Have the steps of all optimizers tell ``take(seeker, optimizer)`` while ``seeker`` lives.

    Remove the handle outside of an optimizer's step, which walks through the hooks.
    """

    def hook(optimizer: Optimizer, *_: Any) -> None:
        alive = seeker()
        if alive is not None:
            take(alive, optimizer)

    return register_optimizer_step_post_hook(hook)
