"""Which sites start at zero: those that end a residual branch, or those that were named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kronfx.errors import PlanError
from kronfx.planner.options import ZeroStart
from kronfx.planner.wishes import each, meant
from kronfx.records import Branches, Site
from kronfx.tables import abbreviated


@dataclass(frozen=True, slots=True)
class Starts:
    """The sites that start at zero; of those, the ones that were called by their own name; what could not be done."""

    zero: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def starts_of(sites: Sequence[Site], types: Mapping[str, type], wish: ZeroStart, branches: Branches) -> Starts:
    """Who is meant by ``zero_start``. A name or glob takes what was seen to end a branch, and what nobody could follow.

    Raises PlanError where a name or glob stands for no map, or for nothing but maps that were seen to end no branch.
    """
    names = [site.name for site in sites]
    if wish is None:
        return Starts()
    if wish == "residual":
        unseen = f"zero_start: not every map could be followed ({branches.blind})"
        return Starts(branches.ends & set(names), notes=(unseen,) if branches.blind else ())
    elsewhere = branches.followed - branches.ends
    zero: set[str] = set()
    notes: list[str] = []
    for one in each(wish):
        found = meant("zero_start", one, names, types)
        if not found - elsewhere:
            _refuse(one, branches)
        if found & elsewhere:
            left = abbreviated(name for name in names if name in found & elsewhere)
            notes.append(f"zero_start: {_said(one)} names maps too that end no residual branch: {left}")
        zero |= found - elsewhere
    return Starts(frozenset(zero), frozenset(name for name in each(wish) if name in names), tuple(notes))


def _said(wanted: object) -> str:
    return wanted.__name__ if isinstance(wanted, type) else repr(wanted)


def _refuse(wanted: object, branches: Branches) -> None:
    known = abbreviated(sorted(branches.ends)) or "none in this model"
    raise PlanError(
        "",
        f"zero_start names {_said(wanted)}, which ends no residual branch",
        f"a map whose output is added to the stream it left (here: {known})",
        "name one of these, or pass zero_start='residual'",
    )
