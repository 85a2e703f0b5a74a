"""Counted multiply-adds against what torch's FLOP counter sees in the real functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_factors, random_input
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kronfx import kron
from kronfx.cost import cheapest, work
from kronfx.records import EVALUATIONS, Evaluation, KroneckerShape

EVALUATE: dict[Evaluation, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "a_first": lambda x, S, A, B: kron.a_first(x, S, A, B, kron.shape_of(A, B), A.shape[0]),
    "b_first": lambda x, S, A, B: kron.b_first(x, S, A, B, kron.shape_of(A, B), A.shape[0]),
    "materialize": kron.materialized,
}
SIZES = st.integers(1, 9)
SHAPES = st.builds(KroneckerShape, SIZES, SIZES, SIZES, SIZES)
RANKS = st.integers(1, 6)
ROWS = st.sampled_from((1, 2, 5, 16))
evaluations = pytest.mark.parametrize("evaluation", EVALUATIONS)
property_test = settings(max_examples=60, deadline=None)


def _inputs(shape: KroneckerShape, rank: int, rows: int, factors_grad: bool, input_grad: bool) -> list[Tensor]:
    factors = random_factors((shape.m1, shape.n1, shape.m2, shape.n2), rank)
    x = random_input((rows,), shape.n).requires_grad_(input_grad)
    return [x, *(f.requires_grad_(factors_grad) for f in (factors.S, factors.A, factors.B))]


def _flops(run: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = run()
    return result, int(counter.get_total_flops())


def _outer(shape: KroneckerShape, rank: int, evaluation: Evaluation) -> int:
    """FLOPs of an outer product: at rank 1 torch multiplies ``A`` and ``B`` entry by entry, which no counter sees."""
    return 2 * shape.m * shape.n if evaluation == "materialize" and rank == 1 else 0


def _measured_forward(shape: KroneckerShape, rank: int, rows: int, evaluation: Evaluation) -> int:
    inputs = _inputs(shape, rank, rows, factors_grad=False, input_grad=False)
    return _flops(lambda: EVALUATE[evaluation](*inputs))[1] + _outer(shape, rank, evaluation)


@evaluations
@property_test
@given(shape=SHAPES, rank=RANKS, rows=ROWS)
def test_forward_is_what_the_flop_counter_sees(
    evaluation: Evaluation, shape: KroneckerShape, rank: int, rows: int
) -> None:
    assert 2 * work(shape, rank, rows, evaluation).forward == _measured_forward(shape, rank, rows, evaluation)


@evaluations
@pytest.mark.parametrize("input_grad", [False, True])
@property_test
@given(shape=SHAPES, rank=RANKS, rows=ROWS)
def test_backward_is_what_the_flop_counter_sees(
    evaluation: Evaluation, input_grad: bool, shape: KroneckerShape, rank: int, rows: int
) -> None:
    counted = work(shape, rank, rows, evaluation)
    inputs = _inputs(shape, rank, rows, factors_grad=True, input_grad=input_grad)
    y, forward = _flops(lambda: EVALUATE[evaluation](*inputs))
    _, backward = _flops(lambda: y.backward(torch.ones_like(y)))
    outer = _outer(shape, rank, evaluation)  # one of three such products, the others give the gradients
    assert forward + outer == 2 * counted.forward  # training changes no count of the forward pass
    assert backward + 2 * outer == 2 * (counted.backward - (0 if input_grad else counted.input_gradient))


class _ProductSizes(TorchDispatchMode):
    """Keeps the number of entries of every matrix product's result."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.entries.append(result.numel())
        return result


@pytest.mark.parametrize("evaluation", ["a_first", "b_first"])
@property_test
@given(shape=SHAPES, rank=RANKS, rows=ROWS)
def test_intermediate_is_the_first_products_size(
    evaluation: Evaluation, shape: KroneckerShape, rank: int, rows: int
) -> None:
    with _ProductSizes() as products:
        EVALUATE[evaluation](*_inputs(shape, rank, rows, factors_grad=False, input_grad=False))
    first, last = products.entries
    assert work(shape, rank, rows, evaluation).intermediate == first
    assert last == rows * shape.m


@property_test
@given(shape=SHAPES, rank=RANKS, rows=ROWS)
def test_cheapest_has_the_fewest_measured_flops(shape: KroneckerShape, rank: int, rows: int) -> None:
    measured = {evaluation: _measured_forward(shape, rank, rows, evaluation) for evaluation in EVALUATIONS}
    entries = {"a_first": shape.m1 * shape.n2, "b_first": shape.n1 * shape.m2, "materialize": 0}
    chosen = cheapest(shape, rank, rows)
    least = [evaluation for evaluation in EVALUATIONS if measured[evaluation] == min(measured.values())]
    assert chosen in least
    assert entries[chosen] == min(entries[evaluation] for evaluation in least)


@pytest.mark.parametrize(
    ("shape", "rank", "expected"),
    [
        (KroneckerShape(64, 16, 16, 16), 1, "b_first"),  # an expansion: few input blocks, many output ones
        (KroneckerShape(16, 64, 16, 16), 1, "a_first"),  # a contraction
        (KroneckerShape(192, 192, 4, 4), 8, "materialize"),  # a small block at a high rank
    ],
)
def test_no_evaluation_wins_everywhere(shape: KroneckerShape, rank: int, expected: Evaluation) -> None:
    assert cheapest(shape, rank, 512) == expected
