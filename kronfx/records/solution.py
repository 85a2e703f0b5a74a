"""The answer of the integer program, with its certificate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kronfx.records.shapes import Evaluation, KroneckerShape
from kronfx.tables import Column, Part, Shown, Table


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """A shape that was not chosen, and its value."""

    shape: KroneckerShape
    objective: int


@dataclass(frozen=True, slots=True)
class Solution(Shown):
    """Answer of the integer program, with its certificate.

    ``objective`` is the optimum, ``lower_bound`` what branch and bound proved no feasible point can beat,
    ``nodes`` how many nodes it visited, ``feasible`` how many pairs ``(m1, n1)`` there were to look at, over all padded
    sizes. ``runners_up`` are the next best shapes, best first, ties of the optimum among them. ``measure`` is the name
    of what was minimized (``"params"``), ``unit`` that of its values.
    """

    shape: KroneckerShape
    rank: int
    objective: int
    lower_bound: int
    nodes: int
    feasible: int
    out_features: int
    in_features: int
    evaluation: Evaluation
    measure: str = "params"
    runners_up: tuple[RunnerUp, ...] = ()
    unit: str = "parameters"

    @property
    def proven(self) -> bool:
        """True when bound and optimum meet: gap 0."""
        return self.lower_bound == self.objective

    @property
    def padding(self) -> tuple[int, int]:
        """Surplus rows and columns of the shape."""
        return self.shape.m - self.out_features, self.shape.n - self.in_features

    def shown(self) -> Iterable[Part]:
        """What is printed: the answer with its proof, and the runners-up."""
        yield self.sentence
        if self.runners_up:
            rows = tuple((str(other.shape), other.objective) for other in self.runners_up)
            yield Table("the next best", (Column("blocks"), Column(self.unit)), rows)

    @property
    def sentence(self) -> str:
        """The answer with its proof."""
        proof = "proven optimal" if self.proven else f"gap {self.objective - self.lower_bound}"
        padded = f" (padded to {self.shape.m}x{self.shape.n})" if any(self.padding) else ""
        return (
            f"{self.out_features}x{self.in_features} at rank {self.rank}: {self.shape}{padded}, "
            f"{self.objective:,} {self.unit} "
            f"({proof}: lower bound {self.lower_bound:,}, {self.nodes} nodes for {self.feasible} feasible pairs)"
        )
