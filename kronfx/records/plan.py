"""The plan of a whole model, as a value: printed, compared, edited, kept as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from kronfx.errors import PlanError
from kronfx.records.budget import Budget
from kronfx.records.difference import PlanDifference
from kronfx.records.shapes import EVALUATIONS, EXPECTED_ROWS, Choice, KroneckerShape, Refusal, Site
from kronfx.tables import Column, Part, Row, Share, Shown, Table, abbreviated, percent

PLAN_FORMAT = "kronfx-plan"
PLAN_VERSION = 2
FORMER = ("formed",)  # what a site said in earlier releases, and no longer does

COLUMNS = (
    Column("layer"), Column("kind", 1), Column("m x n"), Column("blocks"), Column("of"), Column("rank", 9),
    Column("evaluation", 6), Column("dense", 4, "sum"), Column("factored", 5, "sum"), Column("share", 8, "sum"),
    Column("ops dense", 2, "sum"), Column("ops factored", 3, "sum"), Column("ops share", 7, "sum"),
    Column("energy", 10, "range", ".2%"),
)  # fmt: skip
REFUSED = Column("weight"), Column("kind", 1), Column("dims"), Column("reason")


@dataclass(frozen=True, slots=True)
class Plan(Shown):
    """What every linear map of a model becomes, or why it is left alone. Print it, edit it, keep it as JSON.

    ``rows`` is the number of rows of ``x`` it was made for, ``model_parameters`` how many parameters the whole model
    has before (0 where nobody counted), ``budget`` the certificate, where there was one. ``notes`` are sentences on
    what was asked for and could not be done as asked. The predicted times of a training step, which differ from machine
    to machine, are with the choices, and in the table of ``kronfx.inspect(plan)``.
    """

    choices: tuple[Choice, ...]
    refusals: tuple[Refusal, ...] = ()
    rows: int = EXPECTED_ROWS
    model_parameters: int = 0
    budget: Budget | None = None
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Factored parameters of all chosen sites."""
        return sum(choice.parameters for choice in self.choices)

    @property
    def dense_parameters(self) -> int:
        """Dense parameters of the same sites."""
        return sum(site.parameters for site in self.sites)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all chosen sites over ``rows`` rows each."""
        return sum(choice.multiply_adds(self.rows) for choice in self.choices)

    @property
    def dense_multiply_adds(self) -> int:
        """Those of the same sites, dense."""
        return sum(site.multiply_adds(self.rows) for site in self.sites)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The chosen sites, each once."""
        return tuple(dict.fromkeys(choice.site for choice in self.choices))

    @property
    def zero_started(self) -> tuple[str, ...]:
        """The names of the sites that start at zero, each once."""
        return tuple(dict.fromkeys(choice.site.name for choice in self.choices if choice.zero_start))

    @property
    def planned_parameters(self) -> int:
        """Parameters of the whole model once it is rewritten; a weight that others share goes with the last of them."""
        return self.model_parameters - self._freed() + self.parameters

    def _freed(self) -> int:
        alone = sum(site.parameters for site in self.sites if site.sharers == 1)
        shared = Counter((s.shared, s.sharers, s.parameters) for s in self.sites if s.sharers > 1)
        return alone + sum(size for (_, sharers, size), chosen in shared.items() if chosen == sharers)

    def without(self, *names: str) -> Plan:
        """The same plan with the named sites left alone."""
        self._known(names)
        return self._with(tuple(c for c in self.choices if c.site.name not in names))

    def only(self, *names: str) -> Plan:
        """The same plan for the named sites alone."""
        self._known(names)
        return self._with(tuple(c for c in self.choices if c.site.name in names))

    def edited(self, name: str, **changes: Any) -> Plan:
        """The same plan with other fields (``rank``, ``shape``, ``evaluation``, ``zero_start``) of one site's choice.

        What is no longer possible is said by ``kronfx.factorize``. Raises PlanError.
        """
        self._known((name,))
        possible = {"rank", "shape", "evaluation", "zero_start"}
        if not changes.keys() <= possible:
            found = f"an edit of {', '.join(sorted(changes.keys() - possible))}"
            raise PlanError(name, found, "rank, shape, evaluation or zero_start", "plan anew for anything else")
        changed = (replace(c, energy=None, seconds=None, **changes) if c.site.name == name else c for c in self.choices)
        return self._with(tuple(changed))

    def _with(self, choices: tuple[Choice, ...]) -> Plan:
        """Other choices are no longer what the budget's certificate speaks of."""
        return replace(self, choices=choices, budget=self.budget if choices == self.choices else None)

    def _known(self, names: tuple[str, ...]) -> None:
        known = [c.site.name for c in self.choices]
        for name in names:
            if name not in known:
                found = f"no site of this plan is called {name!r}"
                raise PlanError("", found, "the name of a chosen site", f"choose among {', '.join(known)}")

    def __sub__(self, other: Plan) -> PlanDifference:
        """What this plan does otherwise than the other one."""
        return PlanDifference.between(self._outcomes(), other._outcomes())

    def _outcomes(self) -> dict[str, tuple[str, int | None]]:
        """What becomes of every site, in words, and the parameters it has then."""
        outcomes: dict[str, tuple[str, int | None]] = {r.site: (f"dense: {r.reason}", None) for r in self.refusals}
        for choice in self.choices:
            words = f"{choice.shape}, rank {choice.rank}, {choice.evaluation}"
            words += ", zero at the start" if choice.zero_start else ""
            before = outcomes.get(choice.site.name, ("", None))
            has_candidates = before[1] is not None
            outcomes[choice.site.name] = (
                f"{before[0]} + {words}" if has_candidates else words,
                choice.parameters + (before[1] or 0),
            )
        return outcomes

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer, what the whole model becomes, and what is left alone."""
        if self.choices:
            yield self._table()
            yield "\n".join([*self._totals(), *self.notes])
        else:
            yield "plan: no linear map is rewritten"
        if self.refusals:
            yield refusal_table(self.refusals)

    def _table(self) -> Table:
        count = f"{len(self.sites)} layer" if len(self.sites) == 1 else f"{len(self.sites)} layers"
        title = (
            f"plan: {count}, {self.dense_parameters:,} -> {self.parameters:,} parameters "
            f"({percent(self.parameters, self.dense_parameters)})"
        )
        return Table(title, COLUMNS, tuple(_cells(choice, self.rows) for choice in self.choices))

    def _totals(self) -> list[str]:
        dense, factored = self.dense_multiply_adds // self.rows, self.multiply_adds // self.rows
        lines = [f"ops: multiply-adds a row of x, at {self.rows} rows: {dense:,} -> {factored:,}"]
        lines[0] += f" ({percent(factored, dense)})"
        if self.model_parameters:
            share = percent(self.planned_parameters, self.model_parameters)
            lines.append(f"whole model: {self.model_parameters:,} -> {self.planned_parameters:,} parameters ({share})")
        if self.budget is not None:
            lines.append(self.budget.sentence)
        if self.zero_started:
            lines.append(f"zero at a random start ({len(self.zero_started)}): {abbreviated(self.zero_started)}")
        flat = dict.fromkeys(c.site.name for c in self.choices if c.site.taps == 1 and c.shape.m2 < c.shape.n2)
        if flat:
            lines.append(f"flat blocks ({len(flat)}): {abbreviated(flat)}; tall ones, m2 > n2, run faster in a file")
        return lines

    def to_json(self) -> str:
        """The plan as JSON text; ``from_json`` reads it back equal."""
        return json.dumps({"format": PLAN_FORMAT, "version": PLAN_VERSION, **asdict(self)}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that ``to_json`` wrote. Raises PlanError on anything else."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise _no_plan(f"text that is no JSON ({error})") from None
        if not isinstance(data, dict) or data.get("format") != PLAN_FORMAT:
            raise _no_plan("JSON that is no kronfx plan")
        if data.get("version") != PLAN_VERSION:
            raise _no_plan(f"a plan of version {data.get('version')!r}")
        try:
            return cls(
                tuple(_choice(entry) for entry in data["choices"]),
                tuple(Refusal(e["site"], e["kind"], tuple(e["dims"]), e["reason"]) for e in data["refusals"]),
                int(data["rows"]),
                int(data["model_parameters"]),
                None if data["budget"] is None else _record(Budget, data["budget"]),
                tuple(map(str, data.get("notes", ()))),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _no_plan(f"a damaged plan ({type(error).__name__}: {error})") from None


def refusal_table(refusals: tuple[Refusal, ...]) -> Table:
    """Every weight left alone, with its reason."""
    rows = tuple((r.site, r.kind, "x".join(map(str, r.dims)), r.reason) for r in refusals)
    return Table(f"left alone: {len(rows)}", REFUSED, rows)


def _cells(choice: Choice, rows: int) -> Row:
    site, shape = choice.site, choice.shape
    dense, factored = site.multiply_adds(rows) // rows, choice.multiply_adds(rows) // rows
    return (
        site.name,
        site.kind,
        f"{site.m}x{site.n}{f' in {shape.m}x{shape.n}' if any(choice.padding) else ''}",
        f"{shape.m1}x{shape.n1}",
        f"{shape.m2}x{shape.n2}",
        choice.rank,
        choice.evaluation,
        site.parameters,
        choice.parameters,
        Share(choice.parameters, site.parameters),
        dense,
        factored,
        Share(factored, dense),
        choice.energy,
    )


def _no_plan(found: str) -> PlanError:
    return PlanError("", found, f"the text that Plan.to_json wrote (version {PLAN_VERSION})", "plan the model anew")


_PLAIN: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "str": (str,), "float": (float,), "int | None": (int, type(None)),
}  # fmt: skip


def _record(kind: type[Any], entry: dict[str, Any]) -> Any:
    """A flat record from its JSON object: exactly its fields, each of the annotated plain type."""
    names = {f.name: f.type for f in fields(kind)}
    if set(entry) != set(names):
        raise ValueError(f"a {kind.__name__} with the fields {sorted(entry)}")
    for name, value in entry.items():
        if type(value) not in _PLAIN[str(names[name])]:
            raise ValueError(f"{kind.__name__}.{name} is {value!r}")
    return kind(**entry)


def _choice(entry: dict[str, Any]) -> Choice:
    choice = Choice(
        site=_record(Site, {name: value for name, value in entry["site"].items() if name not in FORMER}),
        shape=_record(KroneckerShape, entry["shape"]),
        rank=entry["rank"],
        evaluation=entry["evaluation"],
        energy=entry["energy"],
        zero_start=entry.get("zero_start", False),
        seconds=entry.get("seconds"),
        dense_seconds=entry.get("dense_seconds"),
    )
    if type(choice.rank) is not int or choice.evaluation not in EVALUATIONS:
        raise ValueError(f"rank {choice.rank!r}, evaluation {choice.evaluation!r}")
    for name in ("energy", "seconds", "dense_seconds"):
        value = getattr(choice, name)
        if value is not None and not isinstance(value, float):
            raise ValueError(f"{name} {value!r}")
    if not isinstance(choice.zero_start, bool):
        raise ValueError(f"zero_start {choice.zero_start!r}")
    return choice
