"""Whether a saved state belongs to what is to go on from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kronfx.errors import TrainError

Signatures = Mapping[str, list[int]]


def require_state(state: object, like: Mapping[str, object]) -> None:
    """Raise TrainError where a saved state has not everything that one of ours has."""
    missing = [key for key in like if key not in state] if isinstance(state, Mapping) else list(like)
    if missing:
        remedy = "pass what state_dict() of the same class returned"
        raise TrainError("", f"a saved state without {', '.join(missing)}", f"one with {', '.join(like)}", remedy)


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
