"""The integer program: which block shape stores or runs ``W [m, n]`` best, with its proof. Plain integers.

``min (1 + r) m1 n1 + r m2 n2  s.t.  m1 m2 = m, n1 n2 = n`` (paper, Eq. 5, at rank ``r``), or the multiply-adds or the
time of the best evaluation in its place. Two searches, each with a relaxation that fits: by the product ``t = m1 n1``
for parameters, by pairs ``(m1, n1)`` for the others. Both keep the ``k`` best values, so runners-up are proven too.

Ties. The parameters see only ``t = m1 n1``, so many shapes tie: at 768x768 and rank 4 eighteen, from ``1x768 of 768x1``
(a low-rank product) to ``24x32 of 32x24``. The first evaluate in the fewest multiply-adds and keep the most energy of a
trained weight (LeNet-5's fc1, rank 4: 26% beside 10% for ``8x25 of 15x16``), yet they train far worse, because ``W``
has a rank of at most ``r min(m1, n1) min(m2, n2)`` as a matrix. Measured on MNIST
(12,000 images, one seed), equal parameters, all linear layers factored,
test accuracy after training from random factors / after two epochs from the nearest ones:

    ======================  ==================  ==================
    tie broken by           multiply-adds       squarest block
    ======================  ==================  ==================
    LeNet-5, rank 1         68.5% / 56.9%       89.9% / 78.9%
    LeNet-5, rank 2         82.2% / 76.5%       95.3% / 93.7%
    LeNet-5, rank 4         93.8% / 94.7%       96.4% / 95.5%
    transformer, rank 1     35.2% / 22.6%       78.2% / 56.3%
    ======================  ==================  ==================

So the greatest possible matrix rank comes first and the multiply-adds second: among the shapes that can reach full rank
that takes the cheaper, elongated ones (``48x16 of 16x48``: 1.6 ms forward on 2 cores at 1,024 rows, the fastest of all
eighteen, where the squarest take 2.7 and the low-rank ones 2.3).

Nodes. One free prime is solved without branching, so powers of two take one node and ``5120x13824`` 15 for 880 pairs.
A tenth of the pairs is not reached where there are few of them: ``50257x4096`` has 52, of which 7 nodes are 13%.
"""

from kronfx.solver.grids import Side, contradiction
from kronfx.solver.objectives import OBJECTIVES, Objective
from kronfx.solver.primes import divisors, factorization
from kronfx.solver.problem import Pair, preference, shapes, sides, solve

__all__ = [
    "OBJECTIVES",
    "Objective",
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
