"""The integer program: which block shape stores or runs ``W [m, n]`` best, with its proof. Plain integers.

``min (1 + r) m1 n1 + r m2 n2  s.t.  m1 m2 = m, n1 n2 = n`` (paper, Eq. 5, at rank ``r``), or the multiply-adds or the
time of the best evaluation in its place, or what training and the file take. Two searches, each with a relaxation that
fits: by the product ``t = m1 n1`` for parameters, by pairs ``(m1, n1)`` for the others. Both keep the ``k`` best
values, so runners-up are proven too.

Ties. The parameters see only ``t = m1 n1``, so many shapes tie, and they train very differently: the greatest possible
rank of ``W`` as a matrix comes first, the multiply-adds second, and the tallest block last, which tells a shape from
the one with grid and block exchanged. Measured: ``kronfx/decisions/solver_ties.md``.

Nodes. One free prime is solved without branching, so powers of two take one node and ``5120x13824`` 15 for 880 pairs.
A tenth of the pairs is not reached where there are few of them: ``50257x4096`` has 52, of which 7 nodes are 13%.
"""

from kronfx.solver.checks import Pair
from kronfx.solver.grids import Side, contradiction
from kronfx.solver.objectives import OBJECTIVES, Objective
from kronfx.solver.options import SolveKeywords, SolveOptions
from kronfx.solver.primes import divisors, factorization
from kronfx.solver.problem import preference, shapes, sides, solve

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Pair",
    "Side",
    "SolveKeywords",
    "SolveOptions",
    "contradiction",
    "divisors",
    "factorization",
    "preference",
    "shapes",
    "sides",
    "solve",
]
