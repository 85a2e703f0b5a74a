"""How the options of the verbs are said in a shell: each type that a field of options has is one row of ``SAID``.

A row says how a value is written and read; names, defaults and meanings are the field's own. A new option needs nothing
here unless its type is new: then a row, or, where no shell can say it, a line with the reason in
``tests/cli/test_said.py``, which holds options and keywords together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from zipfile import BadZipFile

import numpy as np

from kronfx.deploy import options as deploying
from kronfx.planner import options as planning
from kronfx.records import Rates
from kronfx.solver import Pair


@dataclass(frozen=True, slots=True)
class Said:
    """How a value is written: a ``metavar`` for it, and what ``read`` makes of all that was given by this option.

    ``read`` raises ValueError with what it needed, or OSError. ``words`` are what a shell may complete.
    """

    metavar: str
    read: Callable[[Sequence[str]], Any]
    words: tuple[str, ...] = ()


def said(kind: object) -> Said | None:
    """The row of a type; None where there is none. Names that are listed in the type are said as they are."""
    words = _words(kind)
    return Said("|".join(words), _once(str), words) if words else SAID.get(kind)


def _words(kind: object) -> tuple[str, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    parts = [_words(part) for part in get_args(kind)]
    return tuple(word for words in parts for word in words) if parts and all(parts) else ()


def _once(read: Callable[[str], Any]) -> Callable[[Sequence[str]], Any]:
    """What stands for itself: of several the last one counts, as in every shell."""
    return lambda texts: read(texts[-1])


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _limit(text: str) -> int | float:
    """A count where it has digits only, else a share."""
    return int(text) if text.isdecimal() else _number(text)


def _wholes(text: str) -> tuple[int, ...]:
    return tuple(map(_whole, text.split(",")))


def _pair(text: str) -> int | tuple[int | None, ...]:
    """``16x32``; ``16`` for both; ``16x`` and ``x32`` leave one free."""
    if "x" not in text:
        return _whole(text)
    return tuple(_whole(side) if side else None for side in text.split("x"))


def _sizes(text: str) -> tuple[Any, ...]:
    return tuple(map(_pair, text.split(",")))


def _blocks(text: str) -> Any:
    """``4x4``, or several, which are candidates: ``4x4,8x8``."""
    blocks = [_pair(block) for block in text.split(",")]
    return blocks[0] if len(blocks) == 1 else blocks


def _rank(text: str) -> int | str:
    return text if text == "full" else _whole(text)


def _by_name(read: Callable[[str], Any]) -> Callable[[Sequence[str]], Any]:
    """``8`` for all, or ``NAME=8`` for some, as often as there are names."""

    def reading(texts: Sequence[str]) -> Any:
        named = [text.rpartition("=") for text in texts]
        if all(equals for _, equals, _ in named):
            return {name: read(value) for name, _, value in named}
        if len(texts) > 1:
            raise ValueError(f"{' and '.join(texts)} are one value for all and others by name")
        return read(texts[0])

    return reading


def _zero_start(texts: Sequence[str]) -> Any:
    if len(texts) > 1:
        return texts
    return {"residual": "residual", "none": None}.get(texts[0], texts)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no JSON ({error})") from None


def _rates(text: str) -> Rates:
    return Rates.from_json(Path(text).read_text())


def _arrays(text: str) -> Mapping[str, Any]:
    """The arrays of an ``.npz`` file by name; nothing is unpickled."""
    try:
        arrays = np.load(text, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile):
        raise ValueError(f"{text} is no .npz file") from None
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError(f"{text} holds an array without a name, and an .npz file has names")
    with arrays:
        return dict(arrays)


SAID: dict[object, Said] = {
    int: Said("N", _once(_whole)),
    float: Said("SHARE", _once(_number)),
    Sequence[int]: Said("N,N,...", _once(_wholes)),
    Sequence[deploying.Rows]: Said("N|BATCHxLENGTH,...", _once(_sizes)),
    planning.RankWish: Said("R|full|NAME=R", _by_name(_rank), ("full",)),
    planning.BlockWish: Said("M2xN2[,...]|NAME=M2xN2", _by_name(_blocks)),
    Pair: Said("M2xN2|N", _once(_pair)),
    tuple[int, int] | None: Said("M2xN2", _once(_pair)),
    planning.Limit: Said("SHARE|COUNT", _once(_limit)),
    planning.Names: Said("NAME", list),
    planning.ZeroStart: Said("residual|none|NAME", _zero_start, ("residual", "none")),
    planning.Overrides: Said("JSON", _once(_json)),
    Rates | None: Said("FILE.json", _once(_rates)),
    deploying.KnownTimings: Said("FILE.json", _once(str)),
    Mapping[str, Any] | None: Said("FILE.npz", _once(_arrays)),
    Any: Said("FILE.npz", _once(_arrays)),
}
