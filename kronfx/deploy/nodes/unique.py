"""Names that nothing else in a graph has."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count


class Unique:
    """Gives every name once: ``a``, ``a_2``, ``a_3``, without those that are ``taken`` already."""

    def __init__(self, taken: Iterable[str | None] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        """The name itself, or the next of it; it is taken from now on."""
        for i in count(self._next.get(name, 1)):
            free = name if i == 1 else f"{name}_{i}"
            if free not in self._taken:
                self._next[name] = i + 1
                self._taken.add(free)
                return free
        raise AssertionError("numbers do not end")
