"""How a file is deployed: every option once, as :mod:`kronfx.options` says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from typing_extensions import TypedDict

from kronfx.deploy.records.timings import Timings, timings_of
from kronfx.errors import ExportError
from kronfx.options import option, settle
from kronfx.records import Lowering

Wanted = Literal["auto"] | Lowering
Goal = Literal["latency", "size"]
Rows = int | tuple[int, int]
KnownTimings = Timings | str | os.PathLike[str] | None


class Keywords(TypedDict, total=False):
    """The names and types of :class:`Options`, for static checkers."""

    lowering: Wanted
    tune: bool
    rows: Sequence[int]
    optimize_for: Goal
    timings: KnownTimings
    verify: bool
    batch_sizes: Sequence[int]


class ExportKeywords(Keywords, total=False):
    """Those of :class:`ExportOptions`."""

    dynamic_shapes: Any


class SparsifyKeywords(Keywords, total=False):
    """Those of :class:`SparsifyOptions`."""

    block: tuple[int, int] | None
    example_inputs: Mapping[str, Any] | None


class BenchKeywords(TypedDict, total=False):
    """The names and types of :class:`BenchOptions`, for static checkers."""

    rows: Sequence[Rows]
    example_inputs: Mapping[str, Any] | None


def _lowering(name: str, value: object) -> Wanted:
    names: tuple[Wanted, ...] = ("auto", *get_args(Lowering))
    for known in names:
        if value == known:
            return known
    raise ExportError("", f"{name}={value!r}", f"one of {', '.join(map(repr, names))}", "choose one of these")


def _goal(name: str, value: object) -> object:
    if value not in get_args(Goal):
        raise ExportError("", f"{name}={value!r}", "'latency' or 'size'", "choose one of these")
    return value


def _rows(name: str, value: object) -> tuple[int, ...]:
    return _counts(name, (value,) if isinstance(value, int) else value)


def _counts(name: str, values: Any) -> tuple[int, ...]:
    """One or more positive integers, each once."""
    listed = tuple(values) if isinstance(values, Iterable) else ()
    if not listed or not all(
        isinstance(one, Integral) and not isinstance(one, bool) and int(one) > 0 for one in listed
    ):
        raise ExportError("", f"{name}={values!r}", "one or more positive integers", f"pass {name}=(1, 8), say")
    return tuple(dict.fromkeys(int(one) for one in listed))


def _block(name: str, value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(type(s) is int and s > 0 for s in value):
        return value[0], value[1]
    raise ExportError("", f"{name}={value!r}", "two positive integers (m2, n2)", "try (32, 32), or leave it out")


def _sizes(name: str, values: Any) -> tuple[Rows, ...]:
    """Counts, or pairs of counts, each once."""
    flat = [part for one in values for part in (one if isinstance(one, tuple) else (one,))]
    if not flat or not all(type(part) is int and part > 0 for part in flat) or max(map(_length, values)) > 2:
        raise ExportError("", f"{name}={values!r}", "rows, or pairs of batch and length", f"pass {name}=(1, 128), say")
    return tuple(dict.fromkeys(values))


def _length(rows: object) -> int:
    return len(rows) if isinstance(rows, tuple) else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an exported model and a file made sparse have in common. Raises ExportError."""

    lowering: Wanted = option(
        "auto",
        "a name",
        """how each layer runs. ``"dense"``: one MatMul; the file stores the surviving blocks only, or the factors where
        they are smaller, and rebuilds the weight when the session loads. ``"blocks"``: products of the surviving blocks
        only. ``"factors"``: the factored evaluation itself (of a model that is not folded yet; a file has none), save
        where that is to form the weight anyway. ``"auto"``: whichever is fastest, dense on a tie.""",
        _lowering,
    )
    tune: bool = option(
        True,
        "yes or no",
        "find out what is fastest by the clock, in onnxruntime on this machine; without, by a cost model.",
    )
    rows: Sequence[int] = option(
        (1, 128), "rows of ``x``", "how many (batch times sequence) to time or to count with.", _rows
    )
    optimize_for: Goal = option(
        "latency",
        "a name",
        """what ``"auto"`` looks for; ``"size"`` takes the smallest lowering instead of the fastest, on a tie the one of
        less work.""",
        _goal,
    )
    timings: KnownTimings = option(
        None,
        "timings, or the path of their JSON",
        "those of an earlier report (or the file its ``to_json`` went to), so that nothing is timed twice.",
        lambda _, value: timings_of(value),
    )
    verify: bool = option(
        True, "yes or no", "run the file in onnxruntime against what it was made from before it gets its name."
    )
    batch_sizes: Sequence[int] = option((1, 7, 32), "lengths of the batch axis", "where to verify.", _counts)

    def __post_init__(self) -> None:
        settle(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions(Options):
    """The options of :func:`kronfx.export_onnx`."""

    dynamic_shapes: Any = option(
        None,
        "as ``torch.export`` has them",
        "the axes that may vary, where that is not the batch alone; ``{}`` fixes every size.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SparsifyOptions(Options):
    """The options of :func:`kronfx.sparsify_onnx`."""

    block: tuple[int, int] | None = option(
        None,
        "entries, ``(m2, n2)``",
        "of the blocks that are zero, output rows first; where none is given, it is detected weight by weight.",
        _block,
    )
    example_inputs: Mapping[str, Any] | None = option(
        None, "arrays by input name", "what to verify on in place of random inputs."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """The options of :func:`kronfx.deploy.bench.bench`. Raises ExportError."""

    rows: Sequence[Rows] = option(
        (1, 128),
        "rows of ``x``",
        """how many to run, each a batch of so many; where a file has another free axis, as that of a sequence, a batch
        of one of that length. A pair says both, batch first.""",
        _sizes,
    )
    example_inputs: Mapping[str, Any] | None = option(
        None, "arrays by input name", "what to run on in place of random inputs of these rows."
    )

    def __post_init__(self) -> None:
        settle(self)
