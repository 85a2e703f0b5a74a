"""The values the stages hand to each other: frozen, printable, JSON in and out, and no torch.

``m, n, m1, n1, m2, n2, r`` mean what the algebra says: a weight ``W [m, n]`` maps ``n`` inputs to ``m``
outputs, ``m = m1 m2``, ``n = n1 n2``, block ``(p, j)`` of ``W`` is an ``m2 x n2`` tile, ``r`` is the rank.
"""

from kronfx.records.branches import Branches
from kronfx.records.budget import Budget
from kronfx.records.difference import Change, PlanDifference
from kronfx.records.plan import Plan, refusal_table
from kronfx.records.pruned import PRUNED, Pruned, PrunedLayer
from kronfx.records.rates import ATTOSECONDS, Rates
from kronfx.records.shapes import (
    EVALUATIONS,
    EXPECTED_ROWS,
    Choice,
    Evaluated,
    Evaluation,
    KroneckerShape,
    Lowering,
    Refusal,
    Site,
)
from kronfx.records.solution import RunnerUp, Solution

__all__ = [
    "ATTOSECONDS",
    "EVALUATIONS",
    "EXPECTED_ROWS",
    "PRUNED",
    "Branches",
    "Budget",
    "Change",
    "Choice",
    "Evaluated",
    "Evaluation",
    "KroneckerShape",
    "Lowering",
    "Plan",
    "PlanDifference",
    "Pruned",
    "PrunedLayer",
    "Rates",
    "Refusal",
    "RunnerUp",
    "Site",
    "Solution",
    "refusal_table",
]
