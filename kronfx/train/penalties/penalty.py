"""What a penalty is, stated once: what a training loop, a report and a checkpoint may ask of any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from kronfx.train.course.pace import Pace
from kronfx.train.state import State


class Penalty(ABC):
    """Brings groups of a model's weights to exact zero while any optimizer trains it.

    ::

        loss = task + penalty.penalty()
        loss.backward()
        optimizer.step()
        penalty.step()
    """

    _pace: Pace  # when a step is due, and at which learning rates

    @property
    def optimizer(self) -> Any:
        """The one that steps the parameters: given, or seen to do so; below its wrappers. None while there is none."""
        return self._pace.optimizer

    @property
    @abstractmethod
    def strength(self) -> float:
        """As it is now."""

    @abstractmethod
    def penalty(self) -> Tensor:
        """What the objective is charged now, a scalar."""

    @abstractmethod
    def step(self) -> None:
        """Shrink, and zero what is due. Call it after every ``optimizer.step()``; where none came, it does nothing."""

    @abstractmethod
    def layers(self) -> dict[str, tuple[int, int]]:
        """``(zero groups, groups)`` of every layer."""

    def sparsity(self) -> float:
        """The share in [0, 1] of the groups that are exactly zero, over all layers."""
        counts = self.layers().values()
        return sum(zero for zero, _ in counts) / sum(groups for _, groups in counts)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs to come to the same numbers: plain values, and masks by name."""
        return self._state().to_dict()

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises TrainError where the state is none of :meth:`state_dict`'s, or of another model,
        plan or target; nothing is changed then."""

    @abstractmethod
    def _state(self) -> State:
        """The same as a typed value."""
