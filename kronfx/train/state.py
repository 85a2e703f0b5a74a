"""What a resumed training goes on from: a typed value here, a plain mapping in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from kronfx.errors import TrainError

Signatures = Mapping[str, list[int]]
AnyState = TypeVar("AnyState", bound="State")


@dataclass(frozen=True, kw_only=True)
class State:
    """Its fields are the keys of a ``state_dict()``: plain values, and mappings from names to tensors."""

    def to_dict(self) -> dict[str, Any]:
        """As it is saved."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls: type[AnyState], saved: object) -> AnyState:
        """What :meth:`to_dict` made. Raises TrainError where a field is missing."""
        names = [field.name for field in fields(cls)]
        given = saved if isinstance(saved, Mapping) else {}
        missing = [name for name in names if name not in given]
        if missing:
            remedy = "pass what state_dict() of the same class returned"
            raise TrainError("", f"a saved state without {', '.join(missing)}", f"one with {', '.join(names)}", remedy)
        return cls(**{name: given[name] for name in names})


def require_same_parts(theirs: Signatures, mine: Signatures) -> None:
    """Raise TrainError where the saved parts are not those of this model."""
    for name in [*mine, *theirs]:
        if mine.get(name) != theirs.get(name):
            found = f"the saved state has {theirs.get(name, 'no such layer')}, this model {mine.get(name, 'none')}"
            raise TrainError(name, found, "the plan it was saved with", "factorize by that plan, then resume")


def require_same_targets(theirs: Iterable[str], mine: Iterable[str]) -> None:
    """Raise TrainError where the saved loops are not those of these targets."""
    if set(theirs) != set(mine):
        found = f"the saved state has targets for {_named(theirs)}, this one for {_named(mine)}"
        raise TrainError("", found, "the same", "pass the target it was saved with")


def _named(loops: Iterable[str]) -> str:
    return ", ".join(name or "the whole model" for name in loops) or "nothing"
