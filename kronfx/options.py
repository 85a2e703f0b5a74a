"""The options of a verb: each is one field of a frozen dataclass, with its type, default, unit, meaning and check.

``keywords`` makes of these fields the signature of a verb that takes them by ``**``, and the end of its documentation.
A static checker learns their names and types from the TypedDict beside the dataclass, which it holds against the fields
where the verb hands them on. To add an option: a field, and its line in the TypedDict.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields
from inspect import Parameter
from typing import Any, TypeVar, get_type_hints

Check = Callable[[str, Any], Any]  # the option's name and what was passed -> what it means, or a sentence raised
Value = TypeVar("Value")
Verb = TypeVar("Verb", bound=Callable[..., object])

WIDTH = 116  # of a line of documentation
_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What a field says of itself beside its name, type and default; ``heading`` opens a group of options."""

    unit: str
    doc: str
    check: Check
    heading: str


def option(default: Value, unit: str, doc: str, check: Check = lambda _, value: value, heading: str = "") -> Value:
    """A field of a dataclass of options: ``unit`` says what a value counts or names."""
    return field(default=default, metadata={_KEY: Option(unit, " ".join(doc.split()), check, heading)})


def about(entry: Field[Any]) -> Option:
    """What a field of options says of itself."""
    said: Option = entry.metadata[_KEY]
    return said


def settle(options: Any) -> None:
    """Every field as its check understands it: what a frozen dataclass does once it is filled.

    Raises what the checks raise.
    """
    for entry in fields(options):
        value = about(entry).check(entry.name, getattr(options, entry.name))
        object.__setattr__(options, entry.name, value)


def keywords(kind: type[Any], *, first: Sequence[str] = ()) -> Callable[[Verb], Verb]:
    """The fields of ``kind`` as keywords of a verb, after its own parameters: those of ``first``, then the others."""
    rest = [entry for entry in fields(kind) if entry.name not in first]
    entries = [entry for name in first for entry in fields(kind) if entry.name == name] + rest

    def told(verb: Verb) -> Verb:
        types, signature = get_type_hints(kind), inspect.signature(verb)
        own = [one for one in signature.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        taken = [_parameter(entry, types[entry.name]) for entry in entries]
        verb.__signature__ = signature.replace(parameters=[*own, *taken])  # type: ignore[attr-defined]
        listed = "\n".join(map(_line, entries)).lstrip()
        verb.__doc__ = f"{inspect.cleandoc(verb.__doc__ or '')}\n\n{listed}"
        return verb

    return told


def _parameter(entry: Field[Any], kind: object) -> Parameter:
    return Parameter(entry.name, Parameter.KEYWORD_ONLY, default=entry.default, annotation=kind)


def _line(entry: Field[Any]) -> str:
    said = about(entry)
    text = f"- ``{entry.name}={entry.default!r}`` [{said.unit}]: {said.doc}"
    line = textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return f"\n{said.heading}:\n\n{line}" if said.heading else line
