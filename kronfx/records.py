"""The values the stages hand to each other: frozen, printable, JSON in and out, and no torch.

``m, n, m1, n1, m2, n2, r`` mean what the algebra says: a weight ``W [m, n]`` maps ``n`` inputs to ``m``
outputs, ``m = m1 m2``, ``n = n1 n2``, block ``(p, j)`` of ``W`` is an ``m2 x n2`` tile, ``r`` is the rank.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from kronfx.errors import PlanError
from kronfx.tables import percent, render

Evaluation = Literal["a_first", "b_first", "materialize"]
EVALUATIONS: tuple[Evaluation, ...] = ("a_first", "b_first", "materialize")

Lowering = Literal["dense", "factors"]

PLAN_FORMAT = "kronfx-plan"
PLAN_VERSION = 1


@dataclass(frozen=True, slots=True, order=True)
class KroneckerShape:
    """``m1 x n1`` blocks of ``m2 x n2`` each: the sizes of ``A_i [m1, n1]`` and ``B_i [m2, n2]``."""

    m1: int
    n1: int
    m2: int
    n2: int

    @property
    def m(self) -> int:
        """Rows of ``W``: outputs."""
        return self.m1 * self.m2

    @property
    def n(self) -> int:
        """Columns of ``W``: inputs."""
        return self.n1 * self.n2

    @property
    def block(self) -> tuple[int, int]:
        """``(m2, n2)``, rows of the output first."""
        return self.m2, self.n2

    @property
    def blocks(self) -> int:
        """How many blocks ``W`` has: ``m1 n1``."""
        return self.m1 * self.n1

    @property
    def max_rank(self) -> int:
        """``min(m1 n1, m2 n2)``: at this rank every ``W`` has exact factors (Van Loan and Pitsianis)."""
        return min(self.m1 * self.n1, self.m2 * self.n2)

    def parameters(self, rank: int) -> int:
        """``(1 + r) m1 n1 + r m2 n2``: the entries of ``S``, every ``A_i`` and every ``B_i`` (paper, Eq. 5)."""
        return (1 + rank) * self.m1 * self.n1 + rank * self.m2 * self.n2

    def __str__(self) -> str:
        return f"{self.m1}x{self.n1} of {self.m2}x{self.n2}"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a linear map lives: the weight's path without a closing ``.weight``, how it is spelled, its size.

    ``stack`` counts maps of one shape held in one tensor (experts). A convolution is the map of its unrolled patches:
    ``n`` is the input channels times the ``taps`` of its kernel. ``formed``: the owner reads ``W`` itself, so that it
    has to be materialized.
    """

    name: str
    kind: str
    m: int
    n: int
    dtype: str = "float32"
    stack: int = 1
    taps: int = 1
    formed: bool = False

    @property
    def parameters(self) -> int:
        """Entries of the dense weight, the bias aside (it is left as it is)."""
        return self.stack * self.m * self.n

    @property
    def label(self) -> str:
        """How errors name the site."""
        return f"{self.name} ({self.m}x{self.n})"


@dataclass(frozen=True, slots=True)
class Choice:
    """What one site becomes: a shape, a rank and the evaluation that runs."""

    site: Site
    shape: KroneckerShape
    rank: int
    evaluation: Evaluation

    @property
    def parameters(self) -> int:
        """Entries of ``S``, ``A`` and ``B``."""
        return self.site.stack * self.shape.parameters(self.rank)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A weight of two or more dimensions that stays as it is, and why."""

    site: str
    kind: str
    dims: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Solution:
    """Answer of the integer program, with its certificate.

    ``objective`` is the optimum, ``lower_bound`` what branch and bound proved no feasible point can beat,
    ``nodes`` how many nodes it visited, ``feasible`` how many pairs ``(m1, n1)`` there were to look at.
    """

    shape: KroneckerShape
    rank: int
    objective: int
    lower_bound: int
    nodes: int
    feasible: int

    @property
    def proven(self) -> bool:
        """True when bound and optimum meet: gap 0."""
        return self.lower_bound == self.objective

    def __str__(self) -> str:
        proof = "proven optimal" if self.proven else f"gap {self.objective - self.lower_bound}"
        return (
            f"{self.shape.m}x{self.shape.n} at rank {self.rank}: {self.shape}, {self.objective:,} parameters "
            f"({proof}: lower bound {self.lower_bound:,}, {self.nodes} nodes for {self.feasible} feasible pairs)"
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What every linear map of a model becomes, or why it is left alone. Print it, edit it, keep it as JSON.

    Several choices for one site are candidates: they stand side by side until ``kronfx.train.PatternSelection`` has
    selected one of them.
    """

    choices: tuple[Choice, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def parameters(self) -> int:
        """Factored parameters of all chosen sites."""
        return sum(choice.parameters for choice in self.choices)

    @property
    def dense_parameters(self) -> int:
        """Dense parameters of the same sites."""
        return sum(site.parameters for site in self.sites)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The chosen sites, each once."""
        return tuple(dict.fromkeys(choice.site for choice in self.choices))

    def without(self, *names: str) -> Plan:
        """The same plan with the named sites left alone."""
        self._known(names)
        return replace(self, choices=tuple(c for c in self.choices if c.site.name not in names))

    def only(self, *names: str) -> Plan:
        """The same plan for the named sites alone."""
        self._known(names)
        return replace(self, choices=tuple(c for c in self.choices if c.site.name in names))

    def _known(self, names: tuple[str, ...]) -> None:
        known = [c.site.name for c in self.choices]
        for name in names:
            if name not in known:
                found = f"no site of this plan is called {name!r}"
                raise PlanError("", found, "the name of a chosen site", f"choose among {', '.join(known)}")

    def __str__(self) -> str:
        headers = (
            "layer",
            "kind",
            "m x n",
            "blocks",
            "of",
            "rank",
            "evaluation",
            "dense",
            "factored",
            "share",
        )
        rows: list[tuple[object, ...]] = [
            (
                c.site.name,
                c.site.kind,
                f"{c.site.m}x{c.site.n}",
                f"{c.shape.m1}x{c.shape.n1}",
                f"{c.shape.m2}x{c.shape.n2}",
                c.rank,
                c.evaluation,
                c.site.parameters,
                c.parameters,
                percent(c.parameters, c.site.parameters),
            )
            for c in self.choices
        ]
        title = (
            f"plan: {len(self.sites)} layers, {self.dense_parameters:,} -> {self.parameters:,} parameters "
            f"({percent(self.parameters, self.dense_parameters)})"
        )
        text = render(title, headers, rows) if rows else "plan: no linear map is rewritten"
        return f"{text}\n\n{refusal_table(self.refusals)}" if self.refusals else text

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
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _no_plan(f"a damaged plan ({type(error).__name__}: {error})") from None


def refusal_table(refusals: tuple[Refusal, ...]) -> str:
    """Every weight left alone, with its reason."""
    rows = [(r.site, r.kind, "x".join(map(str, r.dims)), r.reason) for r in refusals]
    return render(f"left alone: {len(rows)}", ("weight", "kind", "dims", "reason"), rows)


def _no_plan(found: str) -> PlanError:
    return PlanError("", found, f"the text that Plan.to_json wrote (version {PLAN_VERSION})", "plan the model anew")


def _record(kind: type[Any], entry: dict[str, Any]) -> Any:
    """A flat record from its JSON object: exactly its fields, each of the annotated plain type."""
    names = {f.name: f.type for f in fields(kind)}
    if set(entry) != set(names):
        raise ValueError(f"a {kind.__name__} with the fields {sorted(entry)}")
    for name, value in entry.items():
        wanted = {"bool": bool, "int": int, "str": str}[str(names[name])]
        if type(value) is not wanted:
            raise ValueError(f"{kind.__name__}.{name} is {value!r}")
    return kind(**entry)


def _choice(entry: dict[str, Any]) -> Choice:
    choice = Choice(
        _record(Site, entry["site"]),
        _record(KroneckerShape, entry["shape"]),
        entry["rank"],
        entry["evaluation"],
    )
    if type(choice.rank) is not int or choice.evaluation not in EVALUATIONS:
        raise ValueError(f"rank {choice.rank!r}, evaluation {choice.evaluation!r}")
    return choice
