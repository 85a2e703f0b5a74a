"""Sites + wishes -> Plan: a block shape, a rank and an evaluation for every linear map, or the reason it has none.

A wish (``rank``, ``block``) is one value for all sites or a mapping from names or globs to values. A site called by its
own name must be able to grant it; a wish for many (one value, a glob) is refused, with the reason, where it cannot be
granted. The planner sees sizes only: a model on the meta device plans in full.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, Literal, TypeVar

from kronfx.cost import cheapest
from kronfx.errors import PlanError
from kronfx.records import Choice, KroneckerShape, Plan, Refusal, Site
from kronfx.solver import solve

DEFAULT_RANK = 4

Rank = int | Literal["full"]
Block = tuple[int, int]
RankWish = Rank | Mapping[str, Rank]
Blocks = Block | Sequence[Block]  # several: candidates, side by side
BlockWish = Blocks | Mapping[str, Blocks] | None
Names = str | Iterable[str] | None

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Wish(Generic[T]):
    """What is wanted of one site, and whether the site was called by its own name."""

    value: T
    by_name: bool


def plan_sites(
    sites: Sequence[Site],
    refusals: Sequence[Refusal],
    *,
    rank: RankWish = DEFAULT_RANK,
    block: BlockWish = None,
    include: Names = None,
    exclude: Names = None,
    rows: int = 512,
) -> Plan:
    """Choose for every site; ``rows`` is the expected number ``N`` of rows of ``x``, which decides the evaluation.

    Where no block is wished for, the integer program chooses it for the wished rank (for rank 1 when the rank is
    ``"full"``, which then is ``min(m1 n1, m2 n2)``). Raises PlanError.
    """
    if type(rows) is not int or rows < 1:
        raise PlanError("", f"rows={rows!r}", "a positive number of rows", "pass the batch (times sequence) you expect")
    names = [site.name for site in sites]
    wanted = _selected(names, include, exclude)
    ranks = _wishes("rank", names, rank, _checked_rank)
    blocks = _wishes("block", names, block, _checked_blocks)
    _require_possible_rank(sites, rank)
    choices: list[Choice] = []
    refused: list[Refusal] = []
    for site in sites:
        outcome: list[Choice] | str = "not asked for (include / exclude)"
        if site.name in wanted:
            outcome = _choose_all(site, ranks.get(site.name, _Wish(DEFAULT_RANK, False)), blocks.get(site.name), rows)
        if isinstance(outcome, str):
            refused.append(Refusal(site.name, site.kind, (site.m, site.n), outcome))
        else:
            choices += outcome
    return Plan(tuple(choices), (*refused, *refusals))


def _choose_all(
    site: Site, rank: _Wish[Rank], blocks: _Wish[tuple[Block, ...]] | None, rows: int
) -> list[Choice] | str:
    """The choice for one site, one for each block wished for, or the reason it is left alone: every candidate must do,
    since any of them may be the one that is selected."""
    wishes = [None] if blocks is None else [_Wish(block, blocks.by_name) for block in blocks.value]
    choices: list[Choice] = []
    for wish in wishes:
        outcome = _choose(site, rank, wish, rows)
        if isinstance(outcome, str):
            return outcome
        choices.append(outcome)
    return choices


def _choose(site: Site, rank: _Wish[Rank], block: _Wish[Block] | None, rows: int) -> Choice | str:
    """The choice for one site, or the reason it is left alone."""
    channels = site.n // site.taps
    if block is not None:
        m2, n2 = block.value
        if site.m % m2 or channels % n2:
            return _declined(site, f"the block {m2}x{n2} does not divide it", _divisors(site), block.by_name)
        shape = KroneckerShape(site.m // m2, channels // n2, m2, n2 * site.taps)
    else:
        r = 1 if rank.value == "full" else rank.value
        shape = solve(site.m, channels, rank=r, rows=rows, taps=site.taps).shape
    r = shape.max_rank if rank.value == "full" else rank.value
    dense, factored = site.parameters, site.stack * shape.parameters(r)
    if r > shape.max_rank and (block is not None or rank.by_name):
        found = f"rank {r} with the blocks {shape}"
        return _declined(site, found, f"a rank of at most min(m1 n1, m2 n2) = {shape.max_rank}", True)
    if block is None and rank.value != "full" and factored >= dense:
        why = "" if _composite(site.m) or _composite(channels) else f" ({site.m} and {channels} have no useful divisor)"
        found = f"too small to win: rank {r} takes {factored} parameters at best, the dense weight has {dense}{why}"
        return _declined(site, found, "a lower rank", rank.by_name)
    evaluation = "materialize" if site.formed else cheapest(shape, r, rows, site.taps)
    return Choice(site, shape, r, evaluation)


def _declined(site: Site, found: str, needed: str, by_name: bool) -> str:
    """A reason for the report; where the user asked for this very site, an error instead."""
    if by_name:
        raise PlanError(site.label, found, needed, "change the wish, or leave the site out with exclude=")
    return found


def _divisors(site: Site) -> str:
    def of(k: int) -> str:
        return ", ".join(str(d) for d in range(1, k + 1) if k % d == 0)

    return f"m2 among {of(site.m)} and n2 among {of(site.n // site.taps)}"


def _composite(k: int) -> bool:
    return any(k % d == 0 for d in range(2, math.isqrt(k) + 1))


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


def _checked_rank(value: object) -> Rank:
    if value == "full":
        return "full"
    if type(value) is not int or value < 1:
        raise PlanError("", f"rank={value!r}", "a positive integer or 'full'", "pass rank=4, say")
    return value


def _checked_blocks(value: object) -> tuple[Block, ...]:
    """A pair is one block; a list of pairs is several."""
    if isinstance(value, (tuple, list)) and value and all(isinstance(entry, (tuple, list)) for entry in value):
        return tuple(_checked_block(entry) for entry in value)
    return (_checked_block(value),)


def _checked_block(value: object) -> Block:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(type(size) is int and size >= 1 for size in pair):
        raise PlanError(
            "",
            f"block={value!r}",
            "a pair (m2, n2) of positive integers, output rows first",
            "pass (4, 4), say",
        )
    return pair[0], pair[1]


def _wishes(what: str, names: Sequence[str], wish: object, check: Callable[[object], T]) -> dict[str, _Wish[T]]:
    """The wish for each site it speaks of; of a mapping's keys an exact name wins over a glob, else the last one."""
    if wish is None:
        return {}
    if not isinstance(wish, Mapping):
        value = check(wish)
        return {name: _Wish(value, False) for name in names}
    wishes: dict[str, _Wish[T]] = {}
    for pattern, raw in wish.items():
        value, exact = check(raw), pattern in names
        for name in _matching(what, pattern, names):
            if exact or not (name in wishes and wishes[name].by_name):
                wishes[name] = _Wish(value, exact)
    return wishes


def _selected(names: Sequence[str], include: Names, exclude: Names) -> set[str]:
    wanted = {name for pattern in _patterns(include, names) for name in _matching("include", pattern, names)}
    return wanted - {name for pattern in _patterns(exclude, ()) for name in _matching("exclude", pattern, names)}


def _patterns(patterns: Names, default: Sequence[str]) -> Iterable[str]:
    if patterns is None:
        return default
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _matching(what: str, pattern: object, names: Sequence[str]) -> list[str]:
    """The names a name or glob stands for. Raises PlanError, with the nearest names, where it stands for none."""
    if not isinstance(pattern, str):
        raise PlanError("", f"{what} names a layer by {pattern!r}", "a name or a glob", "pass a string")
    if pattern in names:
        return [pattern]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)
        known = ", ".join(near) or "none: this model has no linear map to rewrite"
        raise PlanError(
            "",
            f"{what} names {pattern!r}, which is no linear map of this model",
            f"a known name (nearest: {known})",
            "print kronfx.plan(model) for all of them",
        )
    return found
