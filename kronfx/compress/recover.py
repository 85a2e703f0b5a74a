"""What pruning took from a model, won back: a few steps of training that leave every zero block zero."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from typing_extensions import TypedDict

from kronfx.compress.calibration import Loss, answered, called, measured, output_of
from kronfx.distance import DISTANCES, Distance
from kronfx.errors import RecoverError
from kronfx.layers import KeptZeros, sparsity
from kronfx.options import option, settle
from kronfx.progress import bar

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]
WARM_UP = 0.1  # of the steps, along which the rate rises; from there it falls along a cosine
# The rate that did best, by the share of zero blocks: a larger one spoils what was left, a smaller one wins nothing.
RATES = ((0.5, 2e-4), (0.75, 3e-4), (0.9, 1e-3))


class RecoverKeywords(TypedDict, total=False):
    """The names and types of :class:`RecoverOptions`, for static checkers."""

    steps: int
    lr: float | None
    by: Distance
    loss: Loss | None
    optimizer: MakeOptimizer | None
    seed: int


def _steps(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        raise RecoverError("", f"{name}={value!r}", "a positive number of steps", f"pass {name}=100, say")
    return value


def _rate(name: str, value: object) -> object:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf
    ):
        raise RecoverError("", f"{name}={value!r}", "a positive learning rate", "leave it out for the default")
    return value


def _distance(name: str, value: object) -> object:
    if value not in get_args(Distance):
        known = ", ".join(map(repr, get_args(Distance)))
        raise RecoverError("", f"{name}={value!r}", f"one of {known}", "choose among these")
    return value


def _function(name: str, value: object) -> object:
    if value is not None and not callable(value):
        raise RecoverError("", f"{name} of type {type(value).__name__}", "a function", f"pass {name}=lambda ...: ...")
    return value


@dataclass(frozen=True, slots=True)
class RecoverOptions:
    """See the fields."""

    steps: int = option(
        100, "steps", "of the optimizer, a batch each; the batches are gone through again and again.", _steps
    )
    lr: float | None = option(
        None,
        "a rate",
        """the highest; it rises along a tenth of the steps, then falls along a cosine. By default 2e-4 to 1e-3, the
        larger the more blocks are zero.""",
        _rate,
    )
    by: Distance = option(
        "logits",
        "a name",
        """how far the teacher is: ``"logits"``, the Kullback-Leibler divergence of the classes along the last axis;
        ``"outputs"``, the squared distance of what both return, as a share of the teacher's square.""",
        _distance,
    )
    loss: Loss | None = option(None, "a function", "``loss(model, batch)`` instead, without a teacher.", _function)
    optimizer: MakeOptimizer | None = option(
        None,
        "a function",
        "of the list of parameters, that makes the optimizer, whose rate counts; AdamW by default.",
        _function,
    )
    seed: int = option(0, "a number", "of the order of the batches.")

    def __post_init__(self) -> None:
        settle(self)


def recover(model: nn.Module, teacher: nn.Module | None, batches: Sequence[Any], options: RecoverOptions) -> None:
    """Train the model in place. Raises RecoverError, and PruneError where a batch does not fit."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise RecoverError("", "a model without a trainable parameter", "some", "call model.requires_grad_() first")
    optimizer = _optimizer(parameters, options, *sparsity(model))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _course(step, options.steps))
    zeros = KeptZeros(model)
    with ExitStack() as around:
        around.callback(zeros.release)
        if teacher is not None:
            around.enter_context(measured(teacher))
        around.enter_context(torch.enable_grad())
        begin = around.enter_context(bar("recovery", options.steps))
        for step, batch in zip(range(options.steps), _endless(batches, options.seed)):
            loss = _loss(model, teacher, batch, options)
            value = float(loss.detach())
            if not math.isfinite(value):
                remedy = "take a smaller lr, or look for the batch that the model fails on"
                raise RecoverError("", f"a loss of {value} at step {step}", "a finite one", remedy)
            begin(f"loss {value:.4g}")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            zeros.restore()
            schedule.step()
    optimizer.zero_grad()


def _optimizer(parameters: list[nn.Parameter], options: RecoverOptions, zero: int, blocks: int) -> Optimizer:
    if options.optimizer is not None:
        made: Any = options.optimizer(parameters)
        if not isinstance(made, Optimizer):
            remedy = "pass optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3), say"
            raise RecoverError(
                "", f"optimizer= that returns a {type(made).__name__}", "an optimizer of torch's", remedy
            )
        return made
    rate = options.lr or default_rate(zero / max(blocks, 1))
    return AdamW(parameters, lr=rate, weight_decay=0.0)


def default_rate(share: float) -> float:
    """Between the shares that were measured along a straight line of the rate's logarithm."""
    shares, rates = zip(*RATES)
    return float(np.exp(np.interp(share, shares, np.log(rates))))


def _course(step: int, steps: int) -> float:
    rising, falling = (step + 1) / max(1.0, WARM_UP * steps), (1 + math.cos(math.pi * step / steps)) / 2
    return min(rising, falling)


def _endless(batches: Iterable[Any], seed: int) -> Iterator[Any]:
    order, drawn = list(batches), random.Random(seed)
    while True:
        drawn.shuffle(order)
        yield from order


def _loss(model: nn.Module, teacher: nn.Module | None, batch: Any, options: RecoverOptions) -> Tensor:
    if options.loss is not None:
        return called(options.loss, model, batch)
    assert teacher is not None  # a teacher or a loss: whoever calls has looked
    with torch.no_grad():
        wanted = output_of(answered(teacher, batch))
    found = output_of(answered(model, batch))
    if found.shape != wanted.shape:
        shapes = " and ".join("x".join(map(str, value.shape)) for value in (found, wanted))
        raise RecoverError(
            "", f"outputs of {shapes} of model and teacher", "the same", "pass the model it was pruned from"
        )
    return DISTANCES[options.by](found.float(), wanted.float())
