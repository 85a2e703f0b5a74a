"""Options of a training: by name, of a mapping from names or globs; and whether one is a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from numbers import Real
from typing import TypeGuard, TypeVar

from kronfx.errors import TrainError

Option = TypeVar("Option")


def by_name(what: str, wishes: Mapping[str, Option], names: Sequence[str]) -> dict[str, Option]:
    """``{name: option}`` in the order of ``names``: an exact name wins over a glob, else the last one.

    ``what`` is the option's name in errors. Raises TrainError on a key that means none of the names.
    """
    found: dict[str, Option] = {}
    for pattern, wish in sorted(wishes.items(), key=lambda item: item[0] in names):
        meant = [name for name in names if name == pattern or fnmatchcase(name, str(pattern))]
        meant = [pattern] if pattern in meant else meant
        if not meant:
            known = ", ".join(names) or "none at all"
            raise TrainError("", f"{what} names {pattern!r}", f"what it can act on: {known}", "name one, or a glob")
        found |= dict.fromkeys(meant, wish)
    return {name: found[name] for name in names if name in found}


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, NumPy's too, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)
