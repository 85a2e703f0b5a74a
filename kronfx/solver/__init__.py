"""The integer program: which block shape stores or runs ``W [m, n]`` best, with its proof. Plain integers.

``min (1 + r) m1 n1 + r m2 n2  s.t.  m1 m2 = m, n1 n2 = n`` (paper, Eq. 5, at rank ``r``), or the multiply-adds or the
time of the best evaluation in its place. Two searches, each with a relaxation that fits: by the product ``t = m1 n1``
for parameters, by pairs ``(m1, n1)`` for the others. Both keep the ``k`` best values, so runners-up are proven too.
"""

from kronfx.solver.grids import Side, contradiction
from kronfx.solver.primes import divisors, factorization
from kronfx.solver.problem import Pair, preference, shapes, sides, solve

__all__ = [
    "Pair",
    "Side",
    "contradiction",
    "divisors",
    "factorization",
    "preference",
    "shapes",
    "sides",
    "solve",
]
