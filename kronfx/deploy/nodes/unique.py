"""Names of nodes: none is given twice, and viewers read folders off them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import count


def stem(path: str) -> str:
    """What the names of a module's nodes begin with: ``encoder/layer.0/fc1`` of ``encoder.layer.0.fc1``."""
    return re.sub(r"\.(?!\d+(?:\.|$))", "/", path)


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
