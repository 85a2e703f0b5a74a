"""One site and its wish -> a choice, or the reason why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kronfx.cost import cheapest, dense_step, fastest, step
from kronfx.errors import PlanError, SolveError
from kronfx.planner.options import DEFAULT_RANK
from kronfx.planner.wishes import Wish
from kronfx.records import ATTOSECONDS, Choice, KroneckerShape, Rates, Site, Solution
from kronfx.solver import OBJECTIVES, Objective, solve


class Energies(Protocol):
    """``energies(site, shape)[r - 1]``: the share that rank ``r`` keeps of what ``measure`` names.

    ``spanning``: whether blocks as wide as the map are worth a look (plain low rank, where ``m2 = 1``).
    """

    measure: str
    spanning: bool

    def __call__(self, site: Site, shape: KroneckerShape) -> Sequence[float]: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for every site: the expected rows, the rates that were asked for, whether a loss is refused, the
    energies, and the rates that predict a training step, where time decides how a map is evaluated.
    """

    rows: int
    rates: Rates | None = None
    skip_unprofitable: bool = False
    energies: Energies | None = None
    clock: Rates | None = None

    def made(self, site: Site, shape: KroneckerShape, rank: int) -> Choice:
        """The choice of this shape and rank, its evaluation, its energy and its times."""
        energy = None if self.energies is None else self.energies(site, shape)[rank - 1]
        if self.clock is None:
            return Choice(site, shape, rank, cheapest(shape, rank, self.rows, site.taps), energy)
        evaluation = fastest(shape, rank, self.rows, self.clock, site.taps)
        steps = step(shape, rank, self.rows, evaluation, site.taps), dense_step(site.m, site.n, self.rows)
        seconds, dense_seconds = (site.stack * one.time(self.clock) / ATTOSECONDS for one in steps)
        return Choice(site, shape, rank, evaluation, energy, seconds=seconds, dense_seconds=dense_seconds)

    def rates_for(self, objective: Objective) -> Rates | None:
        """Those that an objective is priced at, if there are any."""
        return self.clock if OBJECTIVES[objective].rates == "training" else self.rates

    def loss(self, choice: Choice) -> str | None:
        """In which way the choice is bigger or slower than the dense map, in words."""
        site = choice.site
        sizes = choice.parameters, site.parameters
        ops = choice.multiply_adds(self.rows) // self.rows, site.multiply_adds(self.rows) // self.rows
        if sizes[0] >= sizes[1]:
            return f"unprofitable: {sizes[0]:,} parameters, the dense weight has {sizes[1]:,}"
        if self.rates is not None and choice.seconds is not None and choice.dense_seconds is not None:
            if choice.seconds >= choice.dense_seconds:
                times = (
                    f"{1e6 * choice.seconds:.4g} us a step at these rates, dense takes {1e6 * choice.dense_seconds:.4g}"
                )
                return f"unprofitable: {times} us"
        elif ops[0] >= ops[1]:
            return f"unprofitable: {ops[0]:,} multiply-adds a row, dense takes {ops[1]:,}"
        return None


def choose_all(site: Site, wish: Wish, setting: Setting) -> tuple[Choice, ...] | str:
    """The choice for one site, of several blocks one for each, or the reason it is left alone: every candidate must do,
    since any of them may be the one that is selected. Raises PlanError as ``choose`` does."""
    choices: list[Choice] = []
    for single in wish.each:
        outcome = choose(site, single, setting)
        if isinstance(outcome, str):
            return outcome
        choices.append(outcome)
    return tuple(choices)


def choose(site: Site, wish: Wish, setting: Setting) -> Choice | str:
    """The choice for one site, or the reason it is left alone. Raises PlanError where it was called by its name."""
    rank = DEFAULT_RANK if wish.rank is None else wish.rank
    found = solved(site, wish, 1 if rank == "full" else rank, setting)
    if isinstance(found, str):
        return found
    shape = found.shape
    r = shape.max_rank if rank == "full" else rank
    dense, factored = site.parameters, site.stack * shape.parameters(r)
    by_name = wish.block is not None or "rank" in wish.named
    if r > shape.max_rank and (by_name or factored < dense):
        sentence = f"rank {r} with the blocks {shape}"
        return _declined(site, sentence, f"a rank of at most min(m1 n1, m2 n2) = {shape.max_rank}", by_name)
    if wish.block is None and rank != "full" and factored >= dense:
        numbers = (site.m, site.channels)
        why = "" if any(map(_composite, numbers)) else f" ({numbers[0]} and {numbers[1]} have no useful divisor)"
        sentence = f"too small to win: rank {r} takes {factored} parameters at best, the dense weight has {dense}{why}"
        return _declined(site, sentence, "a lower rank", "rank" in wish.named)
    choice = setting.made(site, shape, r)
    loss = setting.loss(choice) if setting.skip_unprofitable else None
    return choice if loss is None else loss


def solved(site: Site, wish: Wish, rank: int, setting: Setting, runners_up: int = 0) -> Solution | str:
    """The integer program's answer under the wish's constraints, or the reason it has none."""
    try:
        return solve(
            site.m,
            site.channels,
            rank=rank,
            objective=wish.objective,
            rows=setting.rows,
            taps=site.taps,
            padding=0.0 if site.taps > 1 else wish.padding,  # a convolution's channels are not padded
            rates=setting.rates_for(wish.objective),
            runners_up=runners_up,
            **wish.constraints,
        )
    except SolveError as error:
        return unsolved(site, wish, error)


def unsolved(site: Site, wish: Wish, error: SolveError) -> str:
    """Why no block does."""
    by_name = bool(wish.named & wish.constraints.keys())
    if wish.block is None:
        return _declined(site, error.found, error.needed, by_name)
    m2, n2 = wish.block
    return _declined(site, f"the block {m2}x{n2} does not divide it", _divisors(site), by_name)


def _declined(site: Site, found: str, needed: str, by_name: bool) -> str:
    """A reason for the report; where the user asked for this very site, an error instead."""
    if by_name:
        raise PlanError(site.label, found, needed, "change the wish, or leave the site out with exclude=")
    return found


def _divisors(site: Site) -> str:
    def of(k: int) -> str:
        return ", ".join(str(d) for d in range(1, k + 1) if k % d == 0)

    return f"m2 among {of(site.m)} and n2 among {of(site.channels)}"


def _composite(k: int) -> bool:
    return any(k % d == 0 for d in range(2, math.isqrt(k) + 1))
