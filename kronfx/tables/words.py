"""Names and numbers as words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_NUMBER = re.compile(r"(?<![^._/])(0|[1-9][0-9]{0,8})(?![^._/])")  # a part of a path that is a number


def percent(part: float, whole: float) -> str:
    """``part / whole`` as ``"90.00%"``; an empty whole is ``"-"``."""
    return f"{100 * part / whole:.2f}%" if whole else "-"


def families(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Names that differ in numbers of their paths only, as one, ``h.0-11.mlp.c_proj``, and which they are.

    A family has every member that its name says: ``a.0-1.b.0-2`` are six.
    """
    found = [(tuple(_NUMBER.split(name)), [index]) for index, name in enumerate(names)]  # numbers at odd positions
    for back in range(2, max((len(parts) for parts, _ in found), default=0) + 1, 2):
        alike: dict[object, list[tuple[tuple[str, ...], list[int]]]] = {}
        for parts, members in found:
            alike.setdefault((parts[:-back], parts[1 - back :]), []).append((parts, members))
        found = [_united(family, back) for family in alike.values()]
    return [("".join(parts), members) for parts, members in found]


def _united(family: list[tuple[tuple[str, ...], list[int]]], back: int) -> tuple[tuple[str, ...], list[int]]:
    """Names that agree but in the number that stands ``back`` from their end, as one."""
    if len(family) == 1:
        return family[0]
    parts, members = family[0][0], [index for _, indices in family for index in indices]
    if len(parts) < back:  # one name, several times
        return parts, members
    number = _ranges(sorted({int(other[-back]) for other, _ in family}))
    return (*parts[:-back], number, *parts[1 - back :]), members


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ``0-11`` or ``{0,2,5-7}``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    said = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return said if len(runs) == 1 else f"{{{said}}}"


def abbreviated(names: Iterable[str]) -> str:
    """Names that differ in their numbers only as one: ``h.0-11.mlp.c_proj (12)``."""
    return ", ".join(
        name if len(members) == 1 else f"{name} ({len(members)})" for name, members in families(list(names))
    )


def visible(text: str) -> str:
    """The text, what would move a cursor, break a line or turn the direction being spelled out: ``\\x1b``."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
