"""``target=0.8``: which groups it is a share of, and how many of them are to be zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kronfx.errors import TrainError
from kronfx.train.course.survivors import floor_of
from kronfx.train.options import by_name, is_number

TOLERANCE = 0.01  # of the target: a share that is further from every whole number of groups cannot be meant

Target = float | Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """One target and the parts it is a share of: ``count`` of their groups are to be zero, and every part keeps at
    least as many as its entry of ``floors`` says."""

    target: float
    names: tuple[str, ...]
    count: int
    floors: tuple[int, ...]


def goals(target: Target, groups: Mapping[str, int]) -> dict[str, Goal]:
    """One goal, named "", for a share of the whole model; of a mapping, one for each part that its names or globs mean.

    ``groups`` are the parts and how many groups each has. Raises TrainError: a target outside (0, 1), one that no whole
    number of groups comes within a percentage point of, or that would leave a layer without any; a name that is no
    part's.
    """
    if isinstance(target, Mapping):
        wishes = _wishes(target, list(groups))
        return {
            name: Goal(target=share, names=(name,), count=_count(share, groups[name], name), floors=(1,))
            for name, share in wishes.items()
        }
    count = _count(target, sum(groups.values()), "")
    floors = tuple(floor_of(target, number) for number in groups.values())
    most = sum(groups.values()) - sum(floors)
    if count > most:
        found = f"target={target!r}, which leaves {sum(groups.values()) - count} of {sum(groups.values())} groups"
        needed = f"{sum(floors)}, one at least for each of {len(groups)} layers"
        remedy = f"take {most / sum(groups.values()):.3g}, or give layers targets of their own"
        raise TrainError("", found, needed, remedy)
    return {"": Goal(target=target, names=tuple(groups), count=count, floors=floors)}


def _wishes(target: Mapping[str, float], names: list[str]) -> dict[str, float]:
    """The share of every part that has one."""
    wishes = by_name("target", target, names)
    if not wishes:
        raise TrainError("", "a target for no layer", f"one for some of {', '.join(names)}", "name a layer or a glob")
    return wishes


def _count(target: float, groups: int, where: str) -> int:
    """The whole number of groups nearest to the target; one group at least stays."""
    if not (is_number(target) and 0 < target < 1):
        remedy = "name the share of zero groups, 0.8 for 80%, or leave it out"
        raise TrainError(where, f"target={target!r}", "a target between 0 and 1", remedy)
    count = round(target * groups)
    if not 1 <= count < groups or abs(count / groups - target) > TOLERANCE:
        near = [k / groups for k in (int(target * groups), int(target * groups) + 1) if 1 <= k < groups]
        found = f"target={target!r} of {groups} groups"
        needed = f"a share within {TOLERANCE:.0%} of k / {groups} for a k from 1 to {groups - 1}"
        remedy = f"take {' or '.join(f'{share:.3g}' for share in near)}" if near else "choose smaller blocks"
        raise TrainError(where, found, needed, remedy)
    return count
