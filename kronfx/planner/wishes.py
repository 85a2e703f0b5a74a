"""What is wanted of each site: options for all, options by name or glob, overrides, and who is meant at all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from kronfx.errors import PlanError
from kronfx.planner.options import Block, Name, Names, PlanOptions, Rank
from kronfx.records import Site
from kronfx.solver import Objective, Pair, contradiction, sides


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of one site; ``named`` are the options for which it was called by its own name."""

    min_block: Pair
    max_block: Pair
    multiple_of: Pair
    padding: float
    objective: Objective
    rank: Rank | None = None
    blocks: tuple[Block, ...] = ()
    named: frozenset[str] = frozenset()

    @property
    def block(self) -> Block | None:
        """The block wished for; of several the first, ``each`` has them all."""
        return self.blocks[0] if self.blocks else None

    @property
    def each(self) -> tuple[Wish, ...]:
        """One wish for each of several blocks."""
        return tuple(replace(self, blocks=(block,)) for block in self.blocks) or (self,)

    @property
    def constraints(self) -> dict[str, Pair]:
        """What the solver takes."""
        return {
            "block": self.block,
            "min_block": self.min_block,
            "max_block": self.max_block,
            "multiple_of": self.multiple_of,
        }

    def having(self, option: str, value: Any, by_name: bool) -> Wish:
        """With one option more. A site's own name outweighs whatever came by a glob."""
        if option in self.named and not by_name:
            return self
        named = self.named | {option} if by_name else self.named
        changes: dict[str, Any] = {"blocks" if option == "block" else option: value, "named": named}
        return replace(self, **changes)


def wishes_of(sites: Sequence[Site], options: PlanOptions) -> list[Wish]:
    """One wish a site: what holds for all, then ``rank`` and ``block`` (for all or by name), then ``overrides``.

    Of a mapping's keys an exact name wins over a glob, else the last one. Raises PlanError.
    """
    base = Wish(
        min_block=options.min_block,
        max_block=options.max_block,
        multiple_of=options.multiple_of,
        padding=options.padding,
        objective=options.objective,
    )
    wishes = {site.name: base for site in sites}
    for option, wish in (("rank", options.rank), ("block", options.block)):
        if isinstance(wish, Mapping):
            for pattern, wanted in wish.items():
                _grant(wishes, option, pattern, {option: wanted})
        elif wish is not None:
            wishes = {name: others.having(option, wish, False) for name, others in wishes.items()}
    for pattern, overriding in (options.overrides or {}).items():
        _grant(wishes, "overrides", pattern, overriding)
    for site in sites:
        for single in wishes[site.name].each:
            _require_consistent(site, single)
    return [wishes[site.name] for site in sites]


def _grant(wishes: dict[str, Wish], what: str, pattern: object, options: Mapping[str, Any]) -> None:
    """Give these options to the sites that a name or glob stands for."""
    for name in matching(what, pattern, list(wishes)):
        for option, value in options.items():
            wishes[name] = wishes[name].having(option, value, pattern == name)


def _require_consistent(site: Site, wish: Wish) -> None:
    for side, what in zip(sides(site.label, *wish.constraints.values()), ("m2", "n2")):
        if contradiction(side):
            found = f"{what} is to be {side}: no block can"
            raise PlanError(site.label, found, "constraints that some block meets", "relax one of them")


def selected(sites: Sequence[Site], types: Mapping[str, type], include: Names, exclude: Names) -> set[str]:
    """The names of the sites that are to be rewritten: by name, by glob, or by the type of the module they live in."""
    names = [site.name for site in sites]
    left_out = {name for one in each(exclude) for name in meant("exclude", one, names, types)}
    if include is None:
        return set(names) - left_out
    return {name for one in each(include) for name in meant("include", one, names, types)} - left_out


def each(wanted: Names) -> tuple[Name, ...]:
    """The names, globs and types one by one."""
    if isinstance(wanted, Iterable) and not isinstance(wanted, (str, type)):
        return tuple(wanted)
    return () if wanted is None else (wanted,)


def meant(what: str, wanted: object, names: Sequence[str], types: Mapping[str, type]) -> set[str]:
    """The names that one name, glob or type stands for. Raises PlanError where it stands for none."""
    if not isinstance(wanted, type):
        return set(matching(what, wanted, names))
    found = {name for name in names if name in types and issubclass(types[name], wanted)}
    if not found:
        known = ", ".join(sorted({kind.__name__ for kind in types.values()})) or "none"
        sentence = f"{what} names {wanted.__name__}, and no linear map of this model lives in one"
        raise PlanError(
            "", sentence, f"a type that holds one (here: {known})", "print kronfx.plan(model) for all of them"
        )
    return found


def matching(what: str, pattern: object, names: Sequence[str]) -> list[str]:
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
