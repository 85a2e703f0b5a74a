"""Multiply-adds of the three evaluations: plain integers, no torch, so that the solver can ask too.

A multiply-add is one multiplication and one addition (two FLOPs). Only matrix products are counted: the
element-wise ``S * A`` costs ``r m1 n1``, whatever the number of rows, and is left out, as torch's FLOP counter does.
(At rank 1 torch forms ``W`` by an element-wise product too, and counts nothing for it; here it is still ``m n``.)
"""

from __future__ import annotations

from dataclasses import dataclass

from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds of one call over ``N`` rows, and the entries of its largest intermediate.

    ``backward`` counts the gradients of both factors and of the input; ``input_gradient`` is that part of it
    which a first layer, whose input needs no gradient, does not pay.
    """

    forward: int
    backward: int
    input_gradient: int
    intermediate: int


def work(shape: KroneckerShape, rank: int, rows: int, evaluation: Evaluation, taps: int = 1) -> Work:
    """Count the matrix products of one evaluation for ``rows`` rows (paper, Proposition 2; design of each in kron).

    Every product ``X @ Y`` costs as much again for the gradient of ``X`` and of ``Y``, so the backward pass is
    twice the forward one:

    - ``a_first``: ``N r m1 n2 n1 + N m1 r n2 m2``
    - ``b_first``: ``N r n1 m2 n2 + N m1 r n1 m2``
    - ``materialize``: ``r m n + N m n``

    A convolution with ``taps`` kernel positions is the map of its patches, ``N`` counting positions of the output
    (stride 1): its ``n2`` holds the taps, which ``a_first`` does not touch while it mixes the input channels.
    """
    m1, n1, m2, n2 = shape.m1, shape.n1, shape.m2, shape.n2
    first, second, intermediate = {
        "a_first": (rows * rank * m1 * n2 // taps * n1, rows * m1 * rank * n2 * m2, rows * rank * m1 * n2 // taps),
        "b_first": (rows * rank * n1 * m2 * n2, rows * m1 * rank * n1 * m2, rows * rank * n1 * m2),
        "materialize": (rank * shape.m * shape.n, rows * shape.m * shape.n, 0),
    }[evaluation]
    forward = first + second
    input_gradient = second if evaluation == "materialize" else first
    return Work(forward, 2 * forward, input_gradient, intermediate)


def cheapest(shape: KroneckerShape, rank: int, rows: int, taps: int = 1) -> Evaluation:
    """The evaluation with the fewest forward multiply-adds, then the smallest intermediate."""

    def price(evaluation: Evaluation) -> tuple[int, int]:
        counted = work(shape, rank, rows, evaluation, taps)
        return counted.forward, counted.intermediate

    return min(EVALUATIONS, key=price)
