"""What makes the loss of a model that returns one the distance of its outputs from a teacher's."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from kronfx.distance import DISTANCES, Distance, main_output
from kronfx.errors import TrainError
from kronfx.layers import evaluating, require_module


@dataclass(frozen=True, eq=False)
class Teaching:
    """A forward hook (``with_kwargs=True``): in steps of training ``answer["loss"]`` is what the teacher makes of it.

    Raises TrainError: a teacher that is no module, an unknown ``by``, outputs without names or of other shapes.
    """

    teacher: nn.Module
    by: Distance = "logits"

    def __post_init__(self) -> None:
        require_module(self.teacher, TrainError)
        if self.by not in get_args(Distance):
            known = ", ".join(map(repr, get_args(Distance)))
            raise TrainError("", f"by={self.by!r}", f"one of {known}", "choose among these")

    def __call__(self, model: nn.Module, args: Any, kwargs: dict[str, Any], answer: Any) -> Any:
        """The model's answer; what the teacher says of the same batch is not differentiated."""
        if not (model.training and torch.is_grad_enabled()):
            return answer
        with evaluating(self.teacher), torch.no_grad():
            wanted = main_output(self.teacher(*args, **kwargs))
        found = main_output(answer)
        if not isinstance(answer, MutableMapping) or found is None or wanted is None or found.shape != wanted.shape:
            needed = "outputs with names (a dict), the first of them of one shape in both"
            remedy = "pass the model it was pruned from; where outputs have no names, use kronfx.recover"
            shapes = f"{_said(found)} of the model, {_said(wanted)} of the teacher"
            raise TrainError("", f"{type(answer).__name__}: {shapes}", needed, remedy)
        answer["loss"] = DISTANCES[self.by](found.float(), wanted.float()) * _share(kwargs)
        return answer


def _said(output: Tensor | None) -> str:
    return "nothing" if output is None else "x".join(map(str, output.shape))


def _share(batch: Mapping[str, Any]) -> float:
    """Of what a trainer accumulates before a step, where it leaves the division to the model, as transformers' does."""
    count, labels = batch.get("num_items_in_batch"), batch.get("labels")
    return 1.0 if count is None or labels is None else float((labels != -100).sum() / count)
