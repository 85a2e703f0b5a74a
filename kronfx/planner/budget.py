"""Whole-model budgets: shape and rank of every site at once, within so many parameters or multiply-adds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kronfx.errors import PlanError
from kronfx.planner.candidates import Candidates, candidates_of
from kronfx.planner.choose import Setting
from kronfx.planner.knapsack import Filled, fill, least
from kronfx.planner.options import Limit
from kronfx.planner.wishes import Wish
from kronfx.progress import bar
from kronfx.records import Budget, Choice, Refusal, Site


@dataclass(frozen=True, slots=True)
class Limits:
    """Absolute bounds of the whole model, and what it has dense: parameters and multiply-adds over the rows."""

    parameters: int | None
    multiply_adds: int | None
    model_parameters: int
    model_multiply_adds: int


def limits_of(max_params: Limit, max_flops: Limit, model_parameters: int, sites: Sequence[Site], rows: int) -> Limits:
    """Counts from counts or ratios."""
    multiply_adds = sum(site.multiply_adds(rows) for site in sites)
    return Limits(
        _limit(max_params, model_parameters), _limit(max_flops, multiply_adds), model_parameters, multiply_adds
    )


def _limit(limit: Limit, whole: int) -> int | None:
    return int(limit * whole) if isinstance(limit, float) else limit


def within(
    sites: Sequence[Site], wishes: Mapping[str, Wish], setting: Setting, limits: Limits, refusals: Sequence[Refusal]
) -> tuple[dict[str, Choice | str], Budget]:
    """What each site becomes within the budget, and the certificate. Raises PlanError where nothing fits."""
    outcomes: dict[str, Choice | str] = {}
    groups = _grouped(sites, wishes, setting, outcomes)
    names = [site.name for group in groups for site in group.sites]
    dense = [site for site in sites if site.name in names]
    fixed = np.array(
        [
            limits.model_parameters - sum(site.parameters for site in dense if site.sharers == 1),
            limits.model_multiply_adds - sum(site.multiply_adds(setting.rows) for site in dense),
        ]
    )
    given = [limits.parameters, limits.multiply_adds]
    active = np.array([number for number, limit in enumerate(given) if limit is not None])
    _require_possible(groups, given, fixed, sites, refusals, limits)
    room = np.array([given[number] or 0 for number in active]) - fixed[active]
    candidates, sizes = [group.candidates for group in groups], [len(group.sites) for group in groups]
    filled = (
        fill(candidates, sizes, room, active)
        if groups
        else Filled(counts=[], value=0.0, bound=0.0, prices=np.zeros(len(active)), candidates=0)
    )
    if filled is None:
        raise _too_tight("both budgets at once", "no choice meets the two", "a larger one of the two")
    for group, counts in zip(groups, filled.counts):
        _hand_out(group, counts, setting, outcomes)
    prices = dict(zip(active.tolist(), filled.prices.tolist()))
    measure = "surrogate" if setting.energies is None else setting.energies.measure
    maps = max(1, sum(site.stack for site in dense))
    certificate = Budget(
        max_parameters=limits.parameters,
        max_multiply_adds=limits.multiply_adds,
        value=math.exp(filled.value / maps),
        bound=math.exp(filled.bound / maps),
        candidates=filled.candidates,
        measure=measure,
        parameter_price=prices.get(0, 0.0) / maps,
        multiply_add_price=prices.get(1, 0.0) / maps,
    )
    return outcomes, certificate


@dataclass(frozen=True, slots=True)
class _Group:
    """Sites with equal candidates."""

    sites: list[Site]
    candidates: Candidates


def _grouped(
    sites: Sequence[Site], wishes: Mapping[str, Wish], setting: Setting, outcomes: dict[str, Choice | str]
) -> list[_Group]:
    """The sites by what they may become; those that may become nothing get their reason in ``outcomes``."""
    groups: dict[object, _Group | str] = {}
    with bar("planning", len(wishes)) as begin:
        for site in (site for site in sites if site.name in wishes):
            begin(site.name)
            wish = wishes[site.name]
            key: object = (site.m, site.n, site.stack, site.taps, site.sharers, wish)
            if setting.energies is not None or wish.named:
                key = site.name
            if key not in groups:
                found = candidates_of(site, wish, setting)
                groups[key] = found if isinstance(found, str) else _Group([], found)
            group = groups[key]
            if isinstance(group, str):
                outcomes[site.name] = group
            elif not len(group.candidates):
                outcomes[site.name] = "no rank that is wished for fits any block"
            else:
                group.sites.append(site)
    return [group for group in groups.values() if isinstance(group, _Group) and group.sites]


def _hand_out(
    group: _Group, counts: Sequence[tuple[int, int]], setting: Setting, outcomes: dict[str, Choice | str]
) -> None:
    """Equal sites take their candidates in the model's order, the most valuable ones last."""
    found = group.candidates
    taken = [index for index, count in sorted(counts, key=lambda one: found.values[one[0]]) for _ in range(count)]
    for site, index in zip(group.sites, taken):
        which = int(found.which[index])
        if which < 0:
            outcomes[site.name] = f"within the budget it stays dense: {site.parameters:,} parameters, nothing lost"
        else:
            outcomes[site.name] = setting.made(site, found.shapes[which], int(found.ranks[index]))


def _require_possible(
    groups: Sequence[_Group],
    given: Sequence[int | None],
    fixed: np.ndarray,
    sites: Sequence[Site],
    refusals: Sequence[Refusal],
    limits: Limits,
) -> None:
    """Each budget alone must be reachable; otherwise say how far down it could go and who is in the way."""
    names = ("max_params", "max_flops"), ("parameters", "multiply-adds")
    wholes = (limits.model_parameters, limits.model_multiply_adds)
    for number, limit in enumerate(given):
        if limit is None:
            continue
        floors = least([group.candidates for group in groups], number)
        lowest = int(fixed[number]) + sum(floor * len(group.sites) for floor, group in zip(floors, groups))
        if lowest <= limit:
            continue
        blockers = [(floor, site.label) for floor, group in zip(floors, groups) for site in group.sites]
        planned = {site.name for group in groups for site in group.sites}
        if number == 0:
            blockers += [(int(np.prod(r.dims)), f"{r.site} ({r.reason.partition(':')[0]})") for r in refusals]
            blockers += [(site.parameters, f"{site.label}, not planned") for site in sites if site.name not in planned]
        largest = ", ".join(f"{label} with {size:,}" for size, label in sorted(blockers, reverse=True)[:3])
        unit, whole = names[1][number], wholes[number]
        found = f"{limit:,} {unit} of {whole:,}; {int(fixed[number]):,} are not in linear maps that are planned"
        raise _too_tight(
            f"{names[0][number]}={limit:,}",
            f"{found}, and the largest in the way are {largest}",
            f"at least {lowest:,} ({lowest / whole:.2%})",
        )


def _too_tight(budget: str, found: str, needed: str) -> PlanError:
    remedy = "raise the budget, or let more layers or lower ranks in"
    return PlanError("", f"{budget} is out of reach: {found}", needed, remedy)
