"""``deployed``: a training step and a run of the file together, at the sizes of today's layers, against every shape."""

from __future__ import annotations

from itertools import product

import pytest
from objective_values import admitted, file_run, preference, training_step, value
from torch import nn

import kronfx as kx
from kronfx import price
from kronfx.records import KroneckerShape

TYPICAL = kx.Rates(9_700_000, 107_000_000, 20_000_000_000_000)
SIZES = [(768, 768), (3072, 768), (768, 3072), (4096, 11008), (1000, 2048), (10, 84), (509, 512)]


def every(m: int, n: int) -> list[tuple[int, int, int, int]]:
    rows, columns = ([d for d in range(1, size + 1) if size % d == 0] for size in (m, n))
    return [(m1, n1, m // m1, n // n1) for m1, n1 in product(rows, columns)]


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("rows", [1, 128, 8192])
@pytest.mark.parametrize(("m", "n"), SIZES)
def test_the_best_of_all_shapes_is_found_and_proven(m: int, n: int, rows: int, rank: int) -> None:
    solution = kx.solve(m, n, rank=rank, rows=rows, objective="deployed", rates=TYPICAL, runners_up=2)
    allowed = admitted("deployed", every(m, n), rank)
    wanted = sorted((value("deployed", b, rank, rows, TYPICAL), *preference(b, rank, rows)) for b in allowed)
    found = [(solution.objective, solution.shape), *((one.objective, one.shape) for one in solution.runners_up)]
    blocks = [(s.m1, s.n1, s.m2, s.n2) for _, s in found]
    assert [(v, *preference(b, rank, rows)) for (v, _), b in zip(found, blocks)] == wanted[:3]
    assert solution.proven
    step, run = training_step(blocks[0], rank, rows, TYPICAL), file_run(blocks[0], rows) * TYPICAL.multiply_add
    assert solution.objective == step + run


def test_what_it_chooses_is_tall_and_can_be_anything() -> None:
    for m, n in ((768, 768), (3072, 768), (768, 3072), (4096, 4096)):
        shape = kx.solve(m, n, rank=4, rows=1024, objective="deployed", rates=TYPICAL).shape
        assert shape.m2 > shape.n2
        assert shape.matrix_rank(4) == min(m, n)


def test_a_plan_measures_its_own_rates() -> None:
    """Under a budget of multiply-adds nothing is measured, and the plan says what it needs."""
    layer = nn.Linear(64, 96)
    assert kx.plan(layer, objective="deployed", rates=TYPICAL).choices[0].shape == _solved(TYPICAL)
    assert kx.plan(layer, objective="deployed").choices[0].shape.matrix_rank(4) == 64
    with pytest.raises(kx.KronfxError, match=r"objective='deployed' without rates; .*calibrate\(backward=True\)"):
        kx.plan(layer, objective="deployed", max_flops=0.5)


def _solved(rates: kx.Rates) -> KroneckerShape:
    return kx.solve(96, 64, rank=4, objective="deployed", rates=rates).shape


def test_where_constraints_leave_no_full_rank_the_greatest_counts() -> None:
    solution = kx.solve(64, 64, rank=1, objective="deployed", rates=TYPICAL, block=(None, 1), min_block=(8, None))
    allowed = [(64 // m2, 64, m2, 1) for m2 in (8, 16, 32, 64)]
    greatest = max(min(m1, n1) * min(m2, n2) for m1, n1, m2, n2 in allowed)
    shape = solution.shape
    assert greatest < 64
    assert shape.matrix_rank(1) == greatest


def test_a_kernel_of_several_taps_runs_dense_in_a_file() -> None:
    """Its shape is told by the training step alone."""
    tall, flat = KroneckerShape(8, 576, 64, 1), KroneckerShape(64, 64, 8, 9)
    dense = 512 * 576 * (256 + 12) + 200_000
    assert price.expected(tall, 256, taps=9) == price.expected(flat, 256, taps=9) == dense
    assert price.expected(tall, 256) < price.expected(flat, 256) < dense
