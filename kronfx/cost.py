"""Work of the three evaluations: plain integers, no torch, so that the solver can ask too.

:func:`work` counts what the algebra asks for, :func:`step` what a training step does as ``kronfx.layers`` computes it.

A multiply-add is one multiplication and one addition (two FLOPs). Only matrix products are counted: the
element-wise ``S * A`` costs ``r m1 n1``, whatever the number of rows, and is left out, as torch's FLOP counter does.
(At rank 1 torch forms ``W`` by an element-wise product too, and counts nothing for it; here it is still ``m n``.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape, Rates

REUSED = 2**23  # entries: 32 MB of float32, the most that glibc reuses; what is larger comes page by page
KEPT = 2**20  # entries between the two products up to which autograd keeps them; more are formed in portions, twice
FEW = 512  # rows of which fewer are kept up to twice as many entries: portions of them would be too small
Price = Callable[["Work"], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds of one call over ``N`` rows, and the entries of its largest intermediate.

    ``backward`` counts the gradients of both factors and of the input; ``input_gradient`` is that part of it
    which a first layer, whose input needs no gradient, does not pay. ``activations`` are the entries that the forward
    products read and write, the two operands made of the factors (``weights``) aside; these depend on no rows.
    """

    forward: int
    backward: int
    input_gradient: int
    intermediate: int
    activations: int
    weights: int

    def time(self, rates: Rates) -> int:
        """Attoseconds of the forward pass: every evaluation is two products."""
        return rates.time(self.forward, self.activations + self.weights, 2)


def work(shape: KroneckerShape, rank: int, rows: int, evaluation: Evaluation, taps: int = 1) -> Work:
    """Count what one evaluation does for ``rows`` rows (``KroneckerShape.products``).

    Every product ``X @ Y`` costs as much again for the gradient of ``X`` and of ``Y``, so the backward pass is
    twice the forward one.

    A convolution with ``taps`` kernel positions is the map of its patches, ``N`` counting positions of the output
    (stride 1): its ``n2`` holds the taps, which ``a_first`` does not touch while it mixes the input channels.
    """
    first, second = shape.products(rank, rows, evaluation, taps)
    x, y = rows * shape.n // taps, rows * shape.m
    if evaluation == "materialize":
        intermediate, touched = 0, 2 * shape.m * shape.n
    else:
        inner = shape.m1 * shape.n2 // taps if evaluation == "a_first" else shape.n1 * shape.m2
        intermediate = rows * rank * inner
        touched = 2 * intermediate
    forward = first + second
    return Work(
        forward=forward,
        backward=2 * forward,
        input_gradient=second if evaluation == "materialize" else first,
        intermediate=intermediate,
        activations=x + touched + y,
        weights=rank * (shape.blocks + shape.m2 * shape.n2),
    )


@dataclass(frozen=True, slots=True)
class Step:
    """A training step, forward and backward: multiply-adds, entries read and written, calls of matrix products."""

    multiply_adds: int
    entries: int
    products: int

    def time(self, rates: Rates) -> int:
        """Attoseconds."""
        return rates.time(self.multiply_adds, self.entries, self.products)


def dense_step(m: int, n: int, rows: int) -> Step:
    """Of ``nn.Linear``: three products, each of which reads two of ``x``, ``y`` and ``W`` and writes the third."""
    return Step(3 * rows * m * n, 3 * (rows * (m + n) + m * n), 3)


def is_portioned(intermediate: int, rows: int) -> bool:
    """Whether a training step that has so many entries between its products forms them a portion of rows at a time."""
    return intermediate >= (KEPT if rows >= FEW else 2 * KEPT)


def step(shape: KroneckerShape, rank: int, rows: int, evaluation: Evaluation, taps: int = 1) -> Step:
    """Of a factored layer (``kronfx/layers/portions.py``, ``kronfx/layers/formed.py``); the weights of its entries are
    those that predict best: ``kronfx/decisions/clock.md``.
    """
    counted = work(shape, rank, rows, evaluation, taps)
    x, y, W = rows * shape.n // taps, rows * shape.m, shape.m * shape.n
    if evaluation == "materialize":
        return Step(3 * counted.forward, 3 * (x + y) + 8 * W, 6)
    if not is_portioned(counted.intermediate, rows):  # autograd's way
        multiply_adds, products = 3 * counted.forward, 6
        entries = 7 * counted.intermediate + 4 * (x + y)
    else:  # in portions; what lies between the products is formed twice
        multiply_adds, products = 7 * counted.forward // 2, 2 * rank + 5
        summed, once = (y, x) if evaluation == "a_first" else (x, y)  # summed over the ranks
        entries = 7 * counted.intermediate + (2 * rank + 8) * summed + 6 * once
    return Step(multiply_adds, entries if evaluation == "a_first" else 17 * entries // 20, products)


def by_multiply_adds(counted: Work) -> tuple[int, int]:
    """The fewest forward multiply-adds, then the smallest intermediate."""
    return counted.forward, counted.intermediate


def by_time(rates: Rates) -> Price:
    """The shortest forward pass at these rates, then the smallest intermediate."""
    return lambda counted: (counted.time(rates), counted.intermediate)


def cheapest(shape: KroneckerShape, rank: int, rows: int, taps: int = 1, price: Price = by_multiply_adds) -> Evaluation:
    """The evaluation with the lowest price."""
    return min(EVALUATIONS, key=lambda evaluation: price(work(shape, rank, rows, evaluation, taps)))


def fastest(shape: KroneckerShape, rank: int, rows: int, rates: Rates, taps: int = 1) -> Evaluation:
    """The evaluation whose training step is predicted to be the shortest."""
    return min(EVALUATIONS, key=lambda evaluation: step(shape, rank, rows, evaluation, taps).time(rates))
