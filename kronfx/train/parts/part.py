"""What a penalty acts on, whatever it is: one tensor in groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from torch import Tensor, nn

from kronfx.errors import TrainError
from kronfx.train.parts.carry import Carry


class Part(Protocol):
    """One tensor in groups. Every vector over groups ``[G]`` is flat, whole (never a shard) and in the same order."""

    @property
    def label(self) -> str:
        """How errors name it."""

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter whose learning rate the shrinking follows."""

    @property
    def signature(self) -> list[int]:
        """What a saved state must have in common with it."""

    @property
    def groups(self) -> int:
        """``G``."""

    @property
    def carry(self) -> Carry:
        """What rounding took from its parameters, where they have 16 bits."""

    def sizes(self) -> Tensor:
        """``[G]``, float32 at least: what the penalty charges each group for."""

    def value(self) -> Tensor:
        """The penalty at strength 1, a scalar."""

    def shrink(self, threshold: float) -> None:
        """The proximal step, ``threshold`` being learning rate times strength."""

    def alive(self) -> Tensor:
        """``[G]`` booleans: which groups are not exactly zero."""

    def present(self) -> Tensor:
        """``[G]`` booleans: which groups are not gone for good, those of a map that only starts as zero too."""

    def keep(self, alive: Tensor) -> None:
        """Zero every group that ``alive [G]`` does not hold."""

    def within(self, model: nn.Module) -> Part | None:
        """The same part of another model; None where that has none of the kind."""


AnyPart = TypeVar("AnyPart", bound=Part)


def require_values(parts: Mapping[str, Part]) -> None:
    """Raises TrainError where one is on the meta device."""
    for part in parts.values():
        if part.parameter.is_meta:
            raise TrainError(part.label, "a tensor on the meta device", "values", "call to_empty() and load them first")


def trained(parts: Mapping[str, AnyPart]) -> dict[str, AnyPart]:
    """Those whose parameter trains. Raises TrainError where there is none."""
    training = {name: part for name, part in parts.items() if part.parameter.requires_grad}
    if not training:
        text = "everything it could shrink is frozen"
        raise TrainError("", text, "a parameter that requires a gradient", "call requires_grad_() on those")
    return training


def twins(parts: Iterable[Part], model: nn.Module) -> list[tuple[Part, Part]]:
    """Each with its counterpart in another model. Raises TrainError where that has none."""
    pairs = []
    for part in parts:
        other = part.within(model)
        if other is None or other.signature != part.signature:
            text = "the other model has nothing of this name and size"
            raise TrainError(part.label, text, "a copy or an average of the model in training", "pass one of those")
        pairs.append((part, other))
    return pairs
