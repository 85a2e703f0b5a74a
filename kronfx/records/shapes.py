"""A block shape, the place of a linear map, and what it becomes there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Evaluation = Literal["a_first", "b_first", "materialize"]
EVALUATIONS: tuple[Evaluation, ...] = ("a_first", "b_first", "materialize")

Lowering = Literal["dense", "blocks", "factors"]

EXPECTED_ROWS = 512  # of x, where nobody says how many


@dataclass(frozen=True, slots=True, order=True)
class KroneckerShape:
    """``m1 x n1`` blocks of ``m2 x n2`` each: the sizes of ``A_i [m1, n1]`` and ``B_i [m2, n2]``."""

    m1: int
    n1: int
    m2: int
    n2: int

    @staticmethod
    def covering(m: int, n: int, block: tuple[int, int]) -> KroneckerShape:
        """The fewest blocks that cover ``W [m, n]``; the last ones may reach beyond it."""
        m2, n2 = block
        return KroneckerShape(-(-m // m2), -(-n // n2), m2, n2)

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
    def T(self) -> KroneckerShape:
        """That of ``W^T``: ``n1 x m1`` blocks of ``n2 x m2``."""
        return KroneckerShape(self.n1, self.m1, self.n2, self.m2)

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

    def matrix_rank(self, rank: int) -> int:
        """The greatest rank that ``W`` can have as a matrix: ``min(m, n, r min(m1, n1) min(m2, n2))``, since that of a
        Kronecker product is the product of both (Horn and Johnson, Topics in Matrix Analysis, Theorem 4.2.15)."""
        return min(self.m, self.n, rank * min(self.m1, self.n1) * min(self.m2, self.n2))

    def products(self, rank: int, rows: int, evaluation: Evaluation, taps: int = 1) -> tuple[int, int]:
        """Multiply-adds of the two matrix products of one evaluation over ``N`` rows (paper, Proposition 2):

        - ``a_first``: ``N r m1 n2 n1`` and ``N m1 r n2 m2``
        - ``b_first``: ``N r n1 m2 n2`` and ``N m1 r n1 m2``
        - ``materialize``: ``r m n`` and ``N m n``

        ``a_first`` does not touch the ``taps`` of a convolution's kernel while it mixes the input channels.
        """
        if evaluation == "materialize":
            return rank * self.m * self.n, rows * self.m * self.n
        if evaluation == "a_first":
            return rows * rank * self.m1 * self.n2 // taps * self.n1, rows * self.m1 * rank * self.n2 * self.m2
        return rows * rank * self.n1 * self.m2 * self.n2, rows * self.m1 * rank * self.n1 * self.m2

    def __str__(self) -> str:
        return f"{self.m1}x{self.n1} of {self.m2}x{self.n2}"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A map that runs by its factors: how many, in which order, and the ``taps`` of its kernel if it convolves."""

    rank: int
    evaluation: Evaluation
    taps: int = 1

    def multiply_adds(self, shape: KroneckerShape, rows: int = EXPECTED_ROWS) -> int:
        """Of one row of ``x``, where there are so many rows."""
        return sum(shape.products(self.rank, rows, self.evaluation, self.taps)) // rows


@dataclass(frozen=True, slots=True)
class Site:
    """Where a linear map lives: the weight's path without a closing ``.weight``, how it is spelled, its size.

    ``stack`` counts maps of one shape held in one tensor (experts). A convolution is the map of its unrolled patches:
    ``n`` is the input channels times the ``taps`` of its kernel. ``sharers`` weights of the model are one tensor, whose
    first name is ``shared``: it goes once all of them are rewritten.
    """

    name: str
    kind: str
    m: int
    n: int
    dtype: str = "float32"
    stack: int = 1
    taps: int = 1
    shared: str = ""
    sharers: int = 1

    @property
    def channels(self) -> int:
        """Inputs, the taps of a kernel left out."""
        return self.n // self.taps

    @property
    def parameters(self) -> int:
        """Entries of the dense weight, the bias aside (it is left as it is)."""
        return self.stack * self.m * self.n

    def multiply_adds(self, rows: int) -> int:
        """Of the dense product over ``N`` rows: ``N m n``, for every map of a stack."""
        return rows * self.parameters

    @property
    def label(self) -> str:
        """How errors name the site."""
        return f"{self.name} ({self.m}x{self.n})"


@dataclass(frozen=True, slots=True)
class Choice:
    """What one site becomes: a shape, a rank and the evaluation that runs.

    The shape may be wider than the site by less than one block either way: the surplus rows and columns of ``W`` are
    trained and paid for, and sliced off. ``energy`` is the share of ``||W||^2`` that the nearest factors keep, where
    it was asked for. ``zero_start``: a random start is at ``W = 0``, the factor applied last being zero.
    ``seconds`` and ``dense_seconds``: what a training step of the layer is predicted to take, and of the dense one.
    """

    site: Site
    shape: KroneckerShape
    rank: int
    evaluation: Evaluation
    energy: float | None = None
    zero_start: bool = False
    seconds: float | None = None
    dense_seconds: float | None = None

    @property
    def parameters(self) -> int:
        """Entries of ``S``, ``A`` and ``B``."""
        return self.site.stack * self.shape.parameters(self.rank)

    @property
    def padding(self) -> tuple[int, int]:
        """Surplus rows and columns of ``W``."""
        return self.shape.m - self.site.m, self.shape.n - self.site.n

    def multiply_adds(self, rows: int) -> int:
        """Of the chosen evaluation over ``N`` rows, for every map of a stack."""
        return self.site.stack * sum(self.shape.products(self.rank, rows, self.evaluation, self.site.taps))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A weight of two or more dimensions that stays as it is, and why."""

    site: str
    kind: str
    dims: tuple[int, ...]
    reason: str
