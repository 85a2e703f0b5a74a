"""Options of a training: by name, of a mapping from names or globs; whether one is a number, or of its kind."""

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
    options: dict[str, Option] = {}
    for pattern, wish in sorted(wishes.items(), key=lambda item: item[0] in names):
        meant = [name for name in names if name == pattern or fnmatchcase(name, str(pattern))]
        meant = [pattern] if pattern in meant else meant
        if not meant:
            every = ", ".join(names) or "none at all"
            raise TrainError("", f"{what} names {pattern!r}", f"what it can act on: {every}", "name one, or a glob")
        options |= dict.fromkeys(meant, wish)
    return {name: options[name] for name in names if name in options}


def value_of(what: str, value: Option, *, method: str, example: str) -> Option:
    """The value itself, of an option ``what`` whose values all have this method. Raises TrainError on others: a class
    that was not called, a name, a tuple."""
    if isinstance(value, type) or not hasattr(value, method):
        raise TrainError("", f"{what}={value!r}", f"a value such as {example}", f"pass kronfx.train.{example}, say")
    return value


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, NumPy's too, and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)
