"""The integer program against trying every shape."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import Block, brute_force

from kronfx.errors import SolveError
from kronfx.records import KroneckerShape
from kronfx.solver import divisors, factorization, solve

RANKS = (1, 2, 4, 8)


def _block(shape: KroneckerShape) -> Block:
    return shape.m1, shape.n1, shape.m2, shape.n2


def _preference(block: Block, rank: int, rows: int) -> tuple[int, int, Fraction, int]:
    """The stated order of equally small shapes, from the design's table of multiply-adds."""
    m1, n1, m2, n2 = block
    forward, intermediate = min(
        (rows * rank * m1 * n2 * (n1 + m2), rows * rank * m1 * n2),
        (rows * rank * n1 * m2 * (n2 + m1), rows * rank * n1 * m2),
        ((rows + rank) * m1 * m2 * n1 * n2, 0),
    )
    return forward, intermediate, max(Fraction(m2, n2), Fraction(n2, m2)), m2


@pytest.mark.parametrize("rank", RANKS)
def test_every_pair_up_to_200_matches_brute_force(rank: int) -> None:
    for m in range(1, 201):
        for n in range(1, 201):
            best, optima = brute_force(m, n, rank)
            solution = solve(m, n, rank=rank)
            assert (solution.objective, solution.lower_bound) == (best, best), (m, n)
            assert _block(solution.shape) in optima, (m, n)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.sampled_from((1, 7, 512, 100_000)))
def test_large_pairs_match_brute_force_and_ties_break_as_stated(m: int, n: int, rank: int, rows: int) -> None:
    best, optima = brute_force(m, n, rank)
    solution = solve(m, n, rank=rank, rows=rows)
    assert solution.objective == solution.lower_bound == best
    assert _block(solution.shape) == min(optima, key=lambda block: _preference(block, rank, rows))


@pytest.mark.parametrize(("m", "n"), [(64, 64), (720, 720), (256, 1024), (360, 2520)])
@pytest.mark.parametrize("rows", [1, 16, 4096])
def test_ties_break_as_stated_where_there_are_many(m: int, n: int, rows: int) -> None:
    _, optima = brute_force(m, n, 4)
    assert len(optima) > 5
    assert _block(solve(m, n, rank=4, rows=rows).shape) == min(optima, key=lambda b: _preference(b, 4, rows))


@pytest.mark.parametrize(("m", "n", "objective"), [(8, 256, 128), (10, 784, 252)])
def test_published_optima(m: int, n: int, objective: int) -> None:
    assert solve(m, n).objective == objective


@pytest.mark.parametrize("rank", RANKS)
def test_values_beyond_floating_point_are_exact(rank: int) -> None:
    m, n = 2**60, 2**31 * 3
    values = [(1 + rank) * t + rank * (m * n // t) for e in range(92) for t in (2**e, 2**e * 3)]
    assert solve(m, n, rank=rank).objective == min(values)


def test_optima_with_different_products_are_all_seen() -> None:
    """``2 t + 48 72 / t`` is 168 at ``t = 36`` and at ``t = 48``: the search must keep both for the ties."""
    best, optima = brute_force(48, 72, 1)
    assert best == 168
    assert {m1 * n1 for m1, n1, _, _ in optima} == {36, 48}
    chosen = {rows: _block(solve(48, 72, rows=rows).shape) for rows in (1, 512)}
    assert chosen == {rows: min(optima, key=lambda b: _preference(b, 1, rows)) for rows in (1, 512)}


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (13, 1), (13, 17), (999_999_937, 999_999_929)])
def test_dimensions_without_a_useful_divisor_are_solved(m: int, n: int) -> None:
    candidates = [2 * t + m * n // t for t in (1, m, n, m * n)]
    solution = solve(m, n)
    assert solution.objective == min(candidates)
    assert solution.proven
    assert (solution.shape.m, solution.shape.n) == (m, n)


@pytest.mark.parametrize(
    ("m", "n"),
    [(4096, 4096), (11008, 4096), (14336, 4096), (28672, 8192), (5120, 13824), (18944, 3584), (27720, 27720)],
)
@pytest.mark.parametrize("rank", RANKS)
def test_the_search_visits_less_than_a_tenth_of_the_pairs(m: int, n: int, rank: int) -> None:
    solution = solve(m, n, rank=rank)
    pairs = sum(m % d == 0 for d in range(1, m + 1)) * sum(n % d == 0 for d in range(1, n + 1))
    assert solution.feasible == pairs
    assert 0 < solution.nodes <= pairs / 10
    assert solution.proven


def test_the_rank_is_not_capped() -> None:
    solution = solve(6, 6, rank=1000)
    assert solution.objective == brute_force(6, 6, 1000)[0]
    assert solution.rank == 1000


def test_equal_questions_have_equal_answers_in_any_order() -> None:
    questions = [(m, n, rank) for m in (24, 96, 97) for n in (36, 784) for rank in RANKS]
    first = {question: solve(*question[:2], rank=question[2]) for question in questions}
    random.Random(0).shuffle(questions)
    assert all(solve(m, n, rank=rank) == first[m, n, rank] for m, n, rank in questions)


@pytest.mark.parametrize("bad", [0, -4, 2.0, "8", None, True])
@pytest.mark.parametrize("name", ["out_features", "in_features", "rank", "rows"])
def test_what_is_no_positive_integer_is_refused(name: str, bad: object) -> None:
    arguments = {"out_features": 8, "in_features": 256, "rank": 1, "rows": 512, name: bad}
    with pytest.raises(SolveError) as caught:
        solve(**arguments)  # type: ignore[arg-type]
    where = f"{arguments['out_features']}x{arguments['in_features']}"
    assert str(caught.value) == (
        f"solve: {where}: {name} is {bad!r}; needed a positive integer; pass {name} as an int of at least 1"
    )


def test_a_solution_reads_as_a_certificate() -> None:
    assert str(solve(8, 256)) == (
        "8x256 at rank 1: 8x4 of 1x64, 128 parameters (proven optimal: lower bound 128, 3 nodes for 36 feasible pairs)"
    )


@given(st.integers(1, 20_000))
def test_factorization_and_divisors(number: int) -> None:
    powers = factorization(number)
    assert all(prime > 1 and all(prime % d for d in range(2, prime)) for prime in powers)
    product = 1
    for prime, power in powers.items():
        product *= prime**power
    assert product == number
    assert sorted(divisors(powers)) == [d for d in range(1, number + 1) if number % d == 0]
