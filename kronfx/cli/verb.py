"""A verb of the library as one of the command line: its options are the fields of the same dataclass.

What the verb answers is printed, or written as JSON. Exit codes: 0 where it is done, 1 where it could not be, 2 where
the command was wrong, 130 where it was interrupted. An error is one sentence on stderr, unless ``--debug``.
"""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, dataclass, fields
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer

from kronfx.cli.said import Said, said
from kronfx.errors import KronfxError, reason
from kronfx.options import about
from kronfx.tables import Shown, terminal_width, text

FAILED, WRONG = 1, 2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb has to say: text for people, plain values for programs."""

    text: str | Shown | Sequence[str | Shown]
    data: Any

    def __str__(self) -> str:
        parts = (self.text,) if isinstance(self.text, (str, Shown)) else self.text
        width = terminal_width()
        return "\n\n".join(part if isinstance(part, str) else text(part.shown(), width) for part in parts)


JSON = Annotated[bool, typer.Option("--json", help="Print plain values for programs in place of the text.")]
DEBUG = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_COMMON = {"json": JSON, "debug": DEBUG}


def command(verb: Callable[..., Answer], kind: type[Any] | None = None) -> Callable[..., None]:
    """What typer takes for a command: the verb's own parameters, then the fields of ``kind`` that can be said."""
    parameters = inspect.signature(verb, eval_str=True).parameters.values()
    own = [one for one in parameters if one.kind is not Parameter.VAR_KEYWORD]
    options = sayable(kind) if kind is not None else {}

    def run(*, json: bool, debug: bool, **given: Any) -> None:
        with _spoken(debug, WRONG):
            wishes = {name: _read(name, row, given.pop(name)) for name, (_, row) in options.items()}
            wishes = {name: value for name, value in wishes.items() if value is not _UNSAID}
            if kind is not None:
                kind(**wishes)
        with _spoken(debug, FAILED):
            answer = verb(**given, **wishes)
            _show(answer, json)

    common = [_parameter(name, annotation, False) for name, annotation in _COMMON.items()]
    theirs = [_parameter(name, *_option(entry, row)) for name, (entry, row) in options.items()]
    asked = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in own]
    run.__name__, run.__doc__ = verb.__name__, verb.__doc__
    run.__signature__ = inspect.Signature([*asked, *theirs, *common])  # type: ignore[attr-defined]
    return run


def sayable(kind: type[Any]) -> dict[str, tuple[Field[Any], Said | None]]:
    """The fields that can be said in a shell; those that are yes or no have no row, for they take no value."""
    types = get_type_hints(kind)
    rows = {entry.name: (entry, said(types[entry.name])) for entry in fields(kind)}
    return {name: (entry, row) for name, (entry, row) in rows.items() if row is not None or types[name] is bool}


_UNSAID = object()  # an option that was not given


def _read(name: str, row: Said | None, given: Any) -> Any:
    """What was given by one option. Raises typer.BadParameter."""
    if given is None or given == []:
        return _UNSAID
    if row is None:
        return given
    try:
        return row.read(given)
    except (ValueError, OSError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise typer.BadParameter(f"{found}; write {row.metavar}", param_hint=_flag(name)) from None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(entry: Field[Any], row: Said | None) -> tuple[object, Any]:
    """The annotation and the default of a field's option, which is only handed on where it is given."""
    told, flag = about(entry), _flag(entry.name)
    unit, text = told.unit.replace("``", ""), told.doc.replace("``", "")
    shown = "" if entry.default is None else f" Default: {_shown(entry.default)}."
    if row is None:
        names = f"{flag}/--no-{flag.removeprefix('--')}"
        return Annotated[bool | None, typer.Option(names, help=text + shown, show_default=False)], None
    words = row.words
    made = typer.Option(
        flag,
        help=f"[{unit}] {text}{shown}",
        metavar=row.metavar,
        show_default=False,
        autocompletion=lambda incomplete: [word for word in words if word.startswith(incomplete)],
    )
    return Annotated[list[str] | None, made], None


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _parameter(name: str, annotation: object, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _show(answer: Answer, as_json: bool) -> None:
    print(json.dumps(answer.data, indent=1) if as_json else str(answer), flush=True)


@contextmanager
def _spoken(debug: bool, code: int) -> Iterator[None]:
    """Errors as a sentence and an exit code, warnings as a sentence."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _say(str(message))
        try:
            yield
        except KronfxError as error:
            if debug:
                raise
            _say(str(error))
            raise typer.Exit(code) from None
        except (typer.Exit, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            if debug:
                raise
            _say(f"{reason(error)}; --debug shows where")
            raise typer.Exit(FAILED) from None


def _say(sentence: str) -> None:
    print(f"kronfx: {sentence}", file=sys.stderr)
