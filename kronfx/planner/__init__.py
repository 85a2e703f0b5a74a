"""Sites + wishes -> Plan: a block shape, a rank and an evaluation for every linear map, or the reason it has none.

A wish is one value for all sites or a mapping from names or globs to values. A site called by its own name must be able
to grant it; a wish for many (one value, a glob) is refused, with the reason, where it cannot be granted. The planner
sees sizes only, and energies where it is handed them: a model on the meta device plans in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from kronfx.errors import PlanError
from kronfx.planner.budget import limits_of, within
from kronfx.planner.choose import Energies, Setting, choose_all
from kronfx.planner.options import DEFAULT_RANK, PlanKeywords, PlanOptions, RankWish
from kronfx.planner.starts import Starts, starts_of
from kronfx.planner.wishes import Wish, selected, wishes_of
from kronfx.progress import bar
from kronfx.records import Branches, Budget, Choice, Plan, Rates, Refusal, Site
from kronfx.solver import OBJECTIVES

__all__ = ["PlanKeywords", "PlanOptions", "plan_sites"]

NOTHING_SEEN = Branches()

Outcome = tuple[Choice, ...] | str  # one for each candidate, or the reason why there is none


def plan_sites(
    sites: Sequence[Site],
    refusals: Sequence[Refusal],
    options: PlanOptions,
    *,
    branches: Branches = NOTHING_SEEN,
    types: Mapping[str, type] | None = None,
    model_parameters: int = 0,
    energies: Energies | None = None,
    clock: Rates | None = None,
) -> Plan:
    """Choose for every site.

    ``branches`` are those that ``zero_start`` may mean, ``types`` the classes of the modules that the sites live in,
    ``model_parameters`` how many the whole model has, ``energies`` what the ranks 1, 2, ... of a shape keep of a
    site's weight, ``clock`` the rates that evaluations are chosen by, if not by multiply-adds. Raises PlanError.
    """
    wanted = selected(sites, types or {}, options.include, options.exclude)
    starts = starts_of(sites, types or {}, options.zero_start, branches)
    wishes = {site.name: wish for site, wish in zip(sites, wishes_of(sites, options))}
    _require_possible_rank(sites, options.rank)
    setting = Setting(options.rows, options.rates, options.skip_unprofitable, energies, clock)
    _require_rates(wishes.values(), setting)
    wished = {name: wish for name, wish in wishes.items() if name in wanted}
    outcomes: dict[str, Outcome] = {}
    certificate: Budget | None = None
    if options.max_params is None and options.max_flops is None:
        with bar("planning", len(wished)) as begin:
            for site in (site for site in sites if site.name in wanted):
                begin(site.name)
                outcomes[site.name] = choose_all(site, wished[site.name], setting)
    else:
        _require_single_blocks(sites, wished)
        limits = limits_of(options.max_params, options.max_flops, model_parameters, sites, options.rows)
        found, certificate = within(sites, wished, setting, limits, refusals)
        outcomes = {name: one if isinstance(one, str) else (one,) for name, one in found.items()}
    plan = _plan(sites, outcomes, refusals, options.rows, model_parameters, certificate)
    return _started(plan, starts)


def _started(plan: Plan, starts: Starts) -> Plan:
    """The plan with the sites marked that start at zero. Raises PlanError where a named one is left alone."""
    for refusal in (refusal for refusal in plan.refusals if refusal.site in starts.named):
        found = f"zero_start names a map that is left alone ({refusal.reason})"
        raise PlanError(refusal.site, found, "a map that is rewritten", "rewrite it, or leave it out of zero_start")
    choices = tuple(replace(choice, zero_start=choice.site.name in starts.zero) for choice in plan.choices)
    return replace(plan, choices=choices, notes=(*plan.notes, *starts.notes))


def _plan(
    sites: Sequence[Site],
    outcomes: Mapping[str, Outcome],
    refusals: Sequence[Refusal],
    rows: int,
    model_parameters: int,
    certificate: Budget | None,
) -> Plan:
    choices: list[Choice] = []
    refused: list[Refusal] = []
    for site in sites:
        outcome = outcomes.get(site.name, "not asked for (include / exclude)")
        if isinstance(outcome, str):
            refused.append(Refusal(site.name, site.kind, (site.m, site.n), outcome))
        else:
            choices += outcome
    return Plan(
        choices=tuple(choices),
        refusals=(*refused, *refusals),
        rows=rows,
        model_parameters=model_parameters,
        budget=certificate,
    )


def _require_single_blocks(sites: Sequence[Site], wishes: Mapping[str, Wish]) -> None:
    for site in (site for site in sites if site.name in wishes and len(wishes[site.name].blocks) > 1):
        found = f"{len(wishes[site.name].blocks)} candidate blocks under a budget, which chooses one choice a site"
        raise PlanError(site.label, found, "one block, or none", "leave the candidates or the budget out")


def _require_rates(wishes: Iterable[Wish], setting: Setting) -> None:
    for objective in (wish.objective for wish in wishes):
        rule = OBJECTIVES[objective]
        if rule.rates is not None and setting.rates_for(objective) is None:
            raise PlanError("", f"objective={objective!r} without rates", "the rates of this machine", rule.remedy)


def _require_possible_rank(sites: Sequence[Site], rank: RankWish) -> None:
    """A rank that no shape of any site can have is a mistake: ``min(m1 n1, m2 n2) <= sqrt(m n)`` always."""
    highest = max((math.isqrt(site.m * site.n) for site in sites), default=DEFAULT_RANK)
    if isinstance(rank, int) and rank > max(highest, DEFAULT_RANK):
        raise PlanError(
            "",
            f"rank {rank}",
            f"a rank of at most min(m1 n1, m2 n2), here never above {highest}",
            "lower the rank",
        )
