"""What is wanted of each site: options for all, options by name or glob, overrides, and who is meant at all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from kronfx.errors import PlanError, SolveError
from kronfx.records import OBJECTIVES, Objective, Site
from kronfx.solver import Pair, contradiction, sides

Rank = int | Literal["full"]
Block = tuple[int, int]
RankWish = Rank | Mapping[str, Rank] | None
Blocks = Block | Sequence[Block]  # several: candidates, side by side
BlockWish = Blocks | Mapping[str, Blocks] | None
Name = str | type
Names = Name | Iterable[Name] | None
Overrides = Mapping[str, Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Wish:
    """What is wanted of one site; ``named`` are the options for which it was called by its own name."""

    rank: Rank | None = None
    blocks: tuple[Block, ...] = ()
    min_block: Pair = None
    max_block: Pair = None
    multiple_of: Pair = None
    padding: float = 0.0
    objective: Objective = "params"
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


def wishes_of(sites: Sequence[Site], base: Wish, rank: RankWish, block: BlockWish, overrides: Overrides) -> list[Wish]:
    """One wish a site: ``base``, then ``rank`` and ``block`` (a value for all or a mapping), then ``overrides``.

    Of a mapping's keys an exact name wins over a glob, else the last one. Raises PlanError.
    """
    wishes = {site.name: base for site in sites}
    for option, value in (("padding", base.padding), ("objective", base.objective)):
        _checked(option, value)
    for option, wish in (("rank", rank), ("block", block)):
        if isinstance(wish, Mapping):
            for pattern, wanted in wish.items():
                _grant(wishes, option, pattern, {option: wanted})
        elif wish is not None:
            checked = _checked(option, wish)
            wishes = {name: others.having(option, checked, False) for name, others in wishes.items()}
    for pattern, options in _mapping(overrides).items():
        _grant(wishes, "overrides", pattern, _mapping(options))
    for site in sites:
        for single in wishes[site.name].each:
            _require_consistent(site, single)
    return [wishes[site.name] for site in sites]


def _grant(wishes: dict[str, Wish], what: str, pattern: object, options: Mapping[str, Any]) -> None:
    """Give these options to the sites that a name or glob stands for."""
    for name in matching(what, pattern, list(wishes)):
        for option, value in options.items():
            wishes[name] = wishes[name].having(option, _checked(option, value), pattern == name)


def _mapping(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        needed = "a mapping from names or globs to mappings of options"
        raise PlanError("", f"overrides={value!r}", needed, "pass {'encoder.*.fc1': {'rank': 8}}, say")
    return value


def _require_consistent(site: Site, wish: Wish) -> None:
    for side, what in zip(_sides(site.label, wish), ("m2", "n2")):
        if contradiction(side):
            found = f"{what} is to be {side}: no block can"
            raise PlanError(site.label, found, "constraints that some block meets", "relax one of them")


def _sides(label: str, wish: Wish) -> tuple[Any, Any]:
    try:
        return sides(label, *wish.constraints.values())
    except SolveError as error:
        raise PlanError("", error.found, error.needed, error.remedy) from None


def _checked(option: str, value: object) -> object:
    """The value of one option, or a PlanError."""
    if option == "rank":
        return _checked_rank(value)
    if option == "block":
        return _checked_blocks(value)
    if option == "objective" and value not in OBJECTIVES:
        known = ", ".join(map(repr, OBJECTIVES))
        raise PlanError("", f"objective={value!r}", f"one of {known}", "choose one of these")
    if option == "padding" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1):
        raise PlanError("", f"padding={value!r}", "a share from 0 to 1", "pass 0.02 for at most 2% more")
    if option not in ("objective", "padding", "min_block", "max_block", "multiple_of"):
        needed = "rank, block, min_block, max_block, multiple_of, padding or objective"
        raise PlanError("", f"overrides has the option {option!r}", needed, "correct its name")
    return value


def _checked_rank(value: object) -> Rank:
    if value == "full":
        return "full"
    if type(value) is not int or value < 1:
        raise PlanError("", f"rank={value!r}", "a positive integer or 'full'", "pass rank=4, say")
    return value


def _checked_blocks(value: object) -> tuple[Block, ...]:
    """A pair is one block; a list of pairs is several. One may stand twice: patterns are told apart by position."""
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
