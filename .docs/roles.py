"""What griffe reads of the source, as the site shows it: options that verbs get when kronfx is imported are among their
parameters and in their docstrings, and the roles of Sphinx are links to what is on the site."""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Function, Object, Parameter, ParameterKind, Parameters

import kronfx as kx

ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?([^`]+)`")
LITERAL = re.compile(r"^::\n\n|(?<=:):$", re.MULTILINE)  # what announces a block, which Markdown does not ask for
ROOMS = {"kronfx": kx, "kronfx.train": kx.train}
VERBS = {f"{verb.__module__}.{verb.__name__}": verb for verb in vars(kx).values() if inspect.isfunction(verb)}


def linked(match: re.Match[str]) -> str:
    """The name as code, and a link where it is public."""
    name = match[1]
    last = name.split(".")[-1]
    places = [f"{room}.{last}" for room, module in ROOMS.items() if last in module.__all__]
    return f"[`{name}`][{places[0]}]" if places else f"`{name}`"


def parameter(own: inspect.Parameter) -> Parameter:
    """One of a signature."""
    asked, default = own.annotation, own.default
    return Parameter(
        own.name,
        annotation=asked if isinstance(asked, str) else inspect.formatannotation(asked),
        kind=ParameterKind(own.kind.description),
        default=None if default is own.empty else repr(default),
    )


class Roles(Extension):
    """Asked by griffe for every object that it has read."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        verb = VERBS.get(obj.path)
        if isinstance(obj, Function) and verb is not None:
            obj.parameters = Parameters(*map(parameter, inspect.signature(verb).parameters.values()))
            if obj.docstring is not None:
                obj.docstring.value = inspect.getdoc(verb) or ""
        if obj.docstring is not None:
            obj.docstring.value = LITERAL.sub("", ROLE.sub(linked, obj.docstring.value))
