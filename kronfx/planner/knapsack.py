"""The multiple-choice knapsack: one candidate a site, at most two budgets, the greatest sum of values.

Sites with equal candidates are one group, solved for how many of its sites take which candidate. First candidates that
another beats in every way go. Then the linear relaxation gives the multipliers of the budgets (their marginal prices)
and, rounded, a feasible plan; what its reduced cost proves to be in no better plan goes too (Kellerer, Pferschy and
Pisinger 2004, section 11.2). HiGHS solves the rest as an integer program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from kronfx.planner.candidates import Candidates, Floats, Integers

SECONDS = 20.0  # of search at most; what is left of the gap then is said


@dataclass(frozen=True, slots=True)
class Filled:
    """For each group how many of its sites take which candidate (indices into the group's own), and the certificate."""

    counts: list[list[tuple[int, int]]]
    value: float
    bound: float
    prices: Floats
    candidates: int


def fill(groups: Sequence[Candidates], sizes: Sequence[int], limits: Integers, active: Integers) -> Filled | None:
    """The best choice within ``limits`` of the ``active`` costs, or None where there is none."""
    kept = [_undominated(group.costs[:, active], group.values) for group in groups]
    costs = np.concatenate([group.costs[k][:, active] for group, k in zip(groups, kept)]).astype(np.float64)
    values = np.concatenate([group.values[k] for group, k in zip(groups, kept)])
    owner = np.repeat(np.arange(len(groups)), [len(k) for k in kept])
    local = np.concatenate(kept)
    problem = _Problem(
        costs=costs,
        values=values,
        owner=owner,
        sizes=np.asarray(sizes, dtype=np.float64),
        limits=limits.astype(np.float64),
    )
    solved = problem.solve()
    if solved is None:
        return None
    taken, bound, prices = solved
    counts: list[list[tuple[int, int]]] = [[] for _ in groups]
    for index in np.flatnonzero(taken):
        counts[owner[index]].append((int(local[index]), int(taken[index])))
    value = float(values @ taken)
    return Filled(counts=counts, value=value, bound=max(bound, value), prices=prices, candidates=sum(map(len, groups)))


def least(groups: Sequence[Candidates], cost: int) -> list[int]:
    """The least that each group's sites can cost."""
    return [int(group.costs[:, cost].min()) for group in groups]


def _undominated(costs: Integers, values: Floats) -> Integers:
    """Indices of the candidates that no other one beats or equals in every cost and in value."""
    order = np.lexsort((*costs.T[::-1], -values))  # best value first, then cheapest
    kept: list[int] = []
    front = np.empty((0, costs.shape[1]), dtype=np.int64)
    for index in order:
        if len(front) and bool((front <= costs[index]).all(axis=1).any()):
            continue
        front = np.vstack([front[~(front >= costs[index]).all(axis=1)], costs[index]])
        kept.append(int(index))
    return np.array(kept)


@dataclass(frozen=True, slots=True)
class _Problem:
    """``max values . x``, ``x`` integer, ``costs' x <= limits``, the ``x`` of each owner adding up to its size."""

    costs: Floats
    values: Floats
    owner: Integers
    sizes: Floats
    limits: Floats

    def solve(self) -> tuple[Integers, float, Floats] | None:
        """``x``, an upper bound of the value, and the multipliers of the budgets."""
        scaled = self.costs / np.maximum(self.limits, 1)
        choice = csr_array((np.ones(len(self.owner)), (self.owner, np.arange(len(self.owner)))))
        relaxed = linprog(-self.values, scaled.T, self._rooms(), choice, self.sizes, method="highs")
        if relaxed.status != 0:
            return None
        prices = -relaxed.ineqlin.marginals
        reduced = self.values - scaled @ prices + relaxed.eqlin.marginals[self.owner]
        rounded = self._rounded(relaxed.x)
        possible = np.full(len(self.values), True)
        if rounded is not None:
            slack = -relaxed.fun - float(self.values @ rounded)
            possible = (reduced >= -slack - 1e-9) | (rounded > 0)
        taken, bound = self._integer(possible, scaled, choice, rounded)
        return None if taken is None else (taken, min(bound, -relaxed.fun), prices / np.maximum(self.limits, 1))

    def _rooms(self) -> Floats:
        """Right sides of the scaled budgets; half a unit more than an integer limit, against rounding errors."""
        return (self.limits + 0.5) / np.maximum(self.limits, 1)

    def _rounded(self, x: Floats) -> Integers | None:
        """A feasible plan near a fractional one: whole counts stay, what is left takes the lightest candidate used."""
        taken = np.floor(x + 1e-9).astype(np.int64)
        weight = (self.costs / np.maximum(self.limits, 1)).sum(axis=1)
        missing = self.sizes - np.bincount(self.owner, taken, len(self.sizes))
        for group in np.flatnonzero(missing > 0.5):
            used = np.flatnonzero((self.owner == group) & (x > 1e-9))
            taken[used[np.argmin(weight[used])]] += round(missing[group])
        return taken if self._fits(taken) else None

    def _fits(self, taken: Integers) -> bool:
        return bool((self.costs.T @ taken <= self.limits).all())

    def _integer(
        self, possible: NDArray[np.bool_], scaled: Floats, choice: csr_array, rounded: Integers | None
    ) -> tuple[Integers | None, float]:
        """HiGHS on what is possible; its tolerance of 1e-6 is taken back where it oversteps a budget."""
        columns = np.flatnonzero(possible)
        room = self._rooms()
        bound = np.inf
        for _ in range(4):
            found = milp(
                -self.values[columns],
                integrality=np.ones(len(columns)),
                bounds=Bounds(0, self.sizes[self.owner[columns]]),
                constraints=[
                    LinearConstraint(scaled[columns].T, ub=room),
                    LinearConstraint(choice[:, columns], self.sizes, self.sizes),
                ],
                options={"mip_rel_gap": 0, "time_limit": SECONDS},
            )
            if found.x is None:
                return rounded, bound
            bound = min(bound, -found.mip_dual_bound) if bound == np.inf else bound
            taken = np.zeros(len(self.values), dtype=np.int64)
            taken[columns] = np.rint(found.x)
            if self._fits(taken):
                return taken, bound
            room = room - 2 * np.maximum(scaled.T @ taken - self.limits / np.maximum(self.limits, 1), 0)
        return rounded, bound
