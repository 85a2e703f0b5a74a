"""How a file is deployed: every option with its default and its check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, get_args

from kronfx.deploy.records.timings import Timings, timings_of
from kronfx.errors import ExportError
from kronfx.records import Lowering

Goal = Literal["latency", "size"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How lowerings are chosen; see :func:`kronfx.sparsify_onnx`."""

    lowering: Literal["auto"] | Lowering = "auto"
    tune: bool = True
    rows: tuple[int, ...] = (1, 128)
    optimize_for: Goal = "latency"
    timings: Timings | None = None


def checked(lowering: object, tune: bool, rows: Sequence[int], optimize_for: object, timings: Any) -> Tuning:
    """The options as a value. Raises ExportError where one is not what it can be."""
    names = ("auto", *get_args(Lowering))
    if lowering not in names:
        listed = ", ".join(map(repr, names))
        raise ExportError("", f"lowering={lowering!r}", f"one of {listed}", "choose one of these")
    if optimize_for not in get_args(Goal):
        raise ExportError("", f"optimize_for={optimize_for!r}", "'latency' or 'size'", "choose one of these")
    counts = checked_counts("rows", (rows,) if isinstance(rows, int) else rows, "(1, 128)")
    return Tuning(lowering, bool(tune), counts, optimize_for, timings_of(timings))  # type: ignore[arg-type]


def checked_counts(name: str, values: Any, example: str) -> tuple[int, ...]:
    """One or more positive integers, each once. Raises ExportError, which names the option."""
    listed = tuple(values) if isinstance(values, Iterable) else ()
    if not listed or not all(
        isinstance(one, Integral) and not isinstance(one, bool) and int(one) > 0 for one in listed
    ):
        raise ExportError("", f"{name}={values!r}", "one or more positive integers", f"try {example}")
    return tuple(dict.fromkeys(int(one) for one in listed))


def checked_block(block: object) -> tuple[int, int] | None:
    """``(m2, n2)`` or None. Raises ExportError on anything else."""
    if block is None:
        return None
    if isinstance(block, (tuple, list)) and len(block) == 2 and all(type(s) is int and s > 0 for s in block):
        return block[0], block[1]
    raise ExportError("", f"block={block!r}", "two positive integers (m2, n2)", "try (32, 32), or leave it out")
