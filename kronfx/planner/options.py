"""What can be wished of a plan: every option once, as :mod:`kronfx.options` says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from typing_extensions import TypedDict

from kronfx.errors import PlanError, SolveError
from kronfx.options import option, settle
from kronfx.records import EXPECTED_ROWS, Rates
from kronfx.solver import OBJECTIVES, Objective, Pair, checks

DEFAULT_RANK = 4

Rank = int | Literal["full"]
Block = tuple[int, int]
RankWish = Rank | Mapping[str, Rank] | None
Blocks = Block | Sequence[Block]  # several: candidates, side by side
BlockWish = Blocks | Mapping[str, Blocks] | None
Name = str | type
Names = Name | Iterable[Name] | None
Overrides = Mapping[str, Mapping[str, Any]] | None
Limit = int | float | None
ZeroStart = Literal["residual"] | Names

Checked = TypeVar("Checked")


class PlanKeywords(TypedDict, total=False):
    """The names and types of :class:`PlanOptions`, for static checkers."""

    rank: RankWish
    block: BlockWish
    objective: Objective
    min_block: Pair
    max_block: Pair
    multiple_of: Pair
    padding: float
    overrides: Overrides
    rows: int
    rates: Rates | None
    include: Names
    exclude: Names
    untie: bool
    skip_unprofitable: bool
    zero_start: ZeroStart
    example_inputs: Any
    max_params: Limit
    max_flops: Limit
    energy: bool


def _rank(name: str, value: object) -> Rank:
    if value == "full":
        return "full"
    if type(value) is not int or value < 1:
        raise PlanError("", f"{name}={value!r}", "a positive integer or 'full'", f"pass {name}=4, say")
    return value


def _blocks(name: str, value: object) -> tuple[Block, ...]:
    """A pair is one block; a list of pairs is several. One may stand twice: patterns are told apart by position."""
    if isinstance(value, (tuple, list)) and value and all(isinstance(entry, (tuple, list)) for entry in value):
        return tuple(_block(name, entry) for entry in value)
    return (_block(name, value),)


def _block(name: str, value: object) -> Block:
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(pair) != 2 or not all(type(size) is int and size >= 1 for size in pair):
        needed = "a pair (m2, n2) of positive integers, output rows first"
        raise PlanError("", f"{name}={value!r}", needed, "pass (4, 4), say")
    return pair[0], pair[1]


def _as_solved(check: Callable[[str, str, object], Checked]) -> Callable[[str, object], Checked]:
    """A check of the solver's, which speaks as the planner here."""

    def checked(name: str, value: object) -> Checked:
        try:
            return check("", name, value)
        except SolveError as error:
            raise PlanError("", error.found, error.needed, error.remedy) from None

    return checked


# What can be wished of one site, and so by ``overrides`` too.
OF_A_SITE: dict[str, Callable[[str, object], object]] = {
    "rank": _rank,
    "block": _blocks,
    "min_block": _as_solved(checks.pair),
    "max_block": _as_solved(checks.pair),
    "multiple_of": _as_solved(checks.pair),
    "padding": _as_solved(checks.share),
    "objective": _as_solved(checks.objective),
}


def _of_a_site(name: str, value: object) -> object:
    return OF_A_SITE[name](name, value)


def _by_name(name: str, value: object) -> object:
    """One value for all, or a mapping from names and globs to values."""
    if isinstance(value, Mapping):
        return {pattern: OF_A_SITE[name](name, wanted) for pattern, wanted in value.items()}
    return None if value is None else OF_A_SITE[name](name, value)


def _overrides(name: str, value: object) -> dict[str, dict[str, object]]:
    return {
        pattern: {option: _override(option, wanted) for option, wanted in _mapping(name, wishes).items()}
        for pattern, wishes in _mapping(name, value).items()
    }


def _override(name: str, value: object) -> object:
    if name not in OF_A_SITE:
        raise PlanError("", f"overrides has the option {name!r}", _listed(OF_A_SITE), "correct its name")
    return _of_a_site(name, value)


def _listed(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


def _mapping(name: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        needed = "a mapping from names or globs to mappings of options"
        raise PlanError("", f"{name}={value!r}", needed, "pass {'encoder.*.fc1': {'rank': 8}}, say")
    return value


def _rows(name: str, value: object) -> int:
    if type(value) is not int or value < 1:
        needed = "a positive number of rows"
        raise PlanError("", f"{name}={value!r}", needed, "pass the batch (times sequence) you expect")
    return value


def _rates(name: str, value: object) -> Rates | None:
    if value is not None and not isinstance(value, Rates):
        found = f"{name} of type {type(value).__name__}"
        raise PlanError("", found, "kronfx Rates", f"pass {name}=kronfx.calibrate()")
    return value


def _limit(name: str, value: object) -> Limit:
    is_ratio = isinstance(value, float) and 0 < value <= 1
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (value is None or is_ratio or is_count):
        needed = "a ratio in (0, 1] as a float, or a count as an int"
        raise PlanError("", f"{name}={value!r}", needed, f"pass {name}=0.2 for a fifth")
    return value  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The wishes of a plan, each checked: one value for all sites, or by name. Raises PlanError."""

    rank: RankWish = option(
        None,
        "terms ``A_i kron B_i``",
        f"""an integer, ``"full"`` (each layer's ``min(m1 n1, m2 n2)``, exact with ``init="nearest"``), or a mapping
        from layer names or globs to either. Sites it leaves out get {DEFAULT_RANK}; under a budget, what the budget
        chooses.""",
        _by_name,
        heading="What each map becomes",
    )
    block: BlockWish = option(
        None,
        "entries, ``(m2, n2)``",
        """output rows first, or a mapping from names or globs to such pairs; where none is given, the integer program
        chooses the shape (see ``kronfx.solve``) at the wished rank. A list of pairs in the place of one makes them
        candidates, side by side until ``kronfx.train.PatternSelection`` has chosen.""",
        _by_name,
    )
    objective: Objective = option(
        "params",
        "a name",
        "what the chosen shape is the best by: "
        + "; ".join(f'``"{name}"`` ({rule.unit}: {rule.means})' for name, rule in OBJECTIVES.items())
        + ".",
        _of_a_site,
    )
    min_block: Pair = option(
        None,
        "entries, ``(m2, n2)``",
        "what a chosen block must not be below; an int stands for both, None in a pair leaves one free.",
        _of_a_site,
    )
    max_block: Pair = option(None, "entries, ``(m2, n2)``", "what it must not be above.", _of_a_site)
    multiple_of: Pair = option(None, "entries, ``(m2, n2)``", "what it must be a multiple of.", _of_a_site)
    padding: float = option(
        0.0, "share of a dimension", "by how much a chosen shape may be wider than the layer.", _of_a_site
    )
    overrides: Overrides = option(
        None,
        "options by name or glob",
        f"""{_listed(OF_A_SITE)} for some layers: ``{{"encoder.*.fc1": {{"rank": 8}}}}``.""",
        _overrides,
    )
    rows: int = option(
        EXPECTED_ROWS,
        "rows of ``x``",
        """how many to expect (batch times sequence) in training: each map is evaluated in the way whose step, forward
        and backward, is predicted to be the shortest on this machine. ``kronfx.tune`` sees the rows, and times.""",
        _rows,
    )
    rates: Rates | None = option(
        None,
        "attoseconds",
        """what the machine takes that will train, from ``kronfx.calibrate``; None: this one, measured once in two
        seconds and kept in a file (``$KRONFX_CACHE``, else ``~/.cache/kronfx``). Under ``max_flops`` without rates, the
        fewest multiply-adds decide the evaluation.""",
        _rates,
    )
    include: Names = option(
        None, "names, globs or module types", "the sites to rewrite; None for all.", heading="Which maps"
    )
    exclude: Names = option(None, "names, globs or module types", "the sites to leave alone.")
    untie: bool = option(
        False, "yes or no", "also rewrite a weight that several modules share; it becomes one weight each."
    )
    skip_unprofitable: bool = option(
        False, "yes or no", "leave alone what would get bigger or slower, with both numbers in the reason."
    )
    zero_start: ZeroStart = option(
        "residual",
        "names, globs or module types",
        """the maps that start at ``W = 0``. ``"residual"`` means those whose output is added to the stream it left
        (through nothing but dropout, a scale, a normalization right behind a convolution, and what moves entries
        about); None means none. Of these the factor applied last (``b_first``: ``A``, else ``B``) starts at zero, all
        else as ever, so that the model starts as the identity along its streams; the plan lists them.""",
        heading="How they start, where the start is random",
    )
    example_inputs: Any = option(
        None,
        "a tensor, a tuple of tensors or a dict of keyword tensors",
        """branches are seen by running a copy without values on inputs guessed from its layers. Where no guess runs,
        the plan says so, and this helps; the values do not matter.""",
    )
    max_params: Limit = option(
        None,
        "share as a float in (0, 1], or parameters as an int",
        "what the *whole model* may have, embeddings and biases too.",
        _limit,
        heading="Budgets, which choose shape and rank of every site at once (a multiple-choice knapsack, with its gap)",
    )
    max_flops: Limit = option(
        None,
        "share as a float in (0, 1], or multiply-adds as an int",
        "what all its linear maps may take, over the expected rows each.",
        _limit,
    )
    energy: bool = option(
        False,
        "yes or no",
        """read the weights: print the share of ``||W||^2`` that each choice keeps, and let the budgets maximize its
        geometric mean over the maps. Otherwise no value of the model is touched, and what counts as kept is
        ``log(1 + r) / log(1 + min(m1 n1, m2 n2))``.""",
    )

    def __post_init__(self) -> None:
        settle(self)
