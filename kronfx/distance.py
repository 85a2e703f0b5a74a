"""How far the answers of one model are from another's on the same batch: what a student learns from a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

Distance = Literal["logits", "outputs"]


def main_output(answer: Any) -> Tensor | None:
    """The logits where a model names them, else the first tensor of floats that it returns beside its loss."""
    named = {name: value for name, value in answer.items() if name != "loss"} if isinstance(answer, Mapping) else answer
    for value in [getattr(answer, "logits", None), *tree_leaves(named)]:
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


def _by_logits(found: Tensor, wanted: Tensor) -> Tensor:
    """``E KL(teacher || model)`` of the classes along the last axis."""
    rows, teachers = (F.log_softmax(value, -1).flatten(0, -2) for value in (found, wanted))
    return F.kl_div(rows, teachers, reduction="batchmean", log_target=True)


def _by_outputs(found: Tensor, wanted: Tensor) -> Tensor:
    """``|model - teacher|^2 / |teacher|^2``."""
    return (found - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


DISTANCES: dict[Distance, Callable[[Tensor, Tensor], Tensor]] = {"logits": _by_logits, "outputs": _by_outputs}
