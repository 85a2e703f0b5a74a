"""Docstrings as Markdown: the roles of Sphinx that they have become links to what is on the site."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

import kronfx as kx

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")
LITERAL = re.compile(r"^::\n\n|(?<=:):$", re.MULTILINE)  # what announces a block, which Markdown does not ask for
ROOMS = {"kronfx": kx, "kronfx.train": kx.train}


def linked(match: re.Match[str]) -> str:
    """The name as code, and a link where it is public."""
    name = match[1]
    shown = f"`{name}`"
    places = [
        f"{room}.{name.split('.')[-1]}" for room, module in ROOMS.items() if name.split(".")[-1] in module.__all__
    ]
    return f"[{shown}][{places[0]}]" if places else shown


class Roles(Extension):
    """Asked by griffe for every object that it has read."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = LITERAL.sub("", ROLE.sub(linked, obj.docstring.value))
