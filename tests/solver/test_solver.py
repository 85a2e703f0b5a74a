"""The integer program against trying every shape, with every constraint switched on and off."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_values import RATES, admitted, preference, value
from oracles import Block, brute_force

import kronfx as kx
from kronfx.errors import SolveError
from kronfx.records import KroneckerShape
from kronfx.solver import OBJECTIVES, Objective, divisors, factorization, solve

RANKS = (1, 2, 4, 8)


def _block(shape: KroneckerShape) -> Block:
    return shape.m1, shape.n1, shape.m2, shape.n2


def _every_block(m: int, n: int, sides: list[dict[str, int]], padding: float) -> list[Block]:
    """By looping over every block size: those that meet the constraints, padded up to whole blocks."""
    lengths = []
    for size, side in zip((m, n), sides):
        most = size + int(size * Fraction(padding))
        lengths.append(
            [
                (-(-size // b), b)
                for b in range(1, most + 1)
                if -(-size // b) * b <= most
                and b == side.get("block", b)
                and b >= side.get("min_block", b)
                and b <= side.get("max_block", b)
                and b % side.get("multiple_of", 1) == 0
            ]
        )
    return [(m1, n1, m2, n2) for (m1, m2), (n1, n2) in product(*lengths)]


SIZES = st.integers(1, 48) | st.sampled_from((53, 60, 64, 72))
CONSTRAINT = st.fixed_dictionaries(
    {},
    optional={
        "block": st.integers(1, 12),
        "min_block": st.integers(1, 8),
        "max_block": st.integers(4, 40),
        "multiple_of": st.integers(1, 6),
    },
)


@settings(max_examples=400, deadline=None)
@given(
    SIZES, SIZES, CONSTRAINT, CONSTRAINT, st.integers(1, 9), st.sampled_from(sorted(OBJECTIVES)),
    st.sampled_from((0.0, 0.15)), st.sampled_from((1, 40)), st.integers(0, 4),
)  # fmt: skip
def test_every_constraint_and_objective_matches_brute_force(
    m: int,
    n: int,
    rows_side: dict[str, int],
    columns_side: dict[str, int],
    rank: int,
    objective: Objective,
    padding: float,
    rows: int,
    runners_up: int,
) -> None:
    options: dict[str, Any] = {
        name: (rows_side.get(name), columns_side.get(name)) for name in rows_side.keys() | columns_side.keys()
    }
    options |= {"rank": rank, "objective": objective, "padding": padding, "rows": rows, "runners_up": runners_up}
    options |= {"rates": RATES} if OBJECTIVES[objective].rates else {}
    every = _every_block(m, n, [rows_side, columns_side], padding)
    if not every:
        with pytest.raises(SolveError, match="no (m2|n2) that divides .*; relax them, or allow padding"):
            solve(m, n, **options)
        return
    solution = solve(m, n, **options)
    allowed = admitted(objective, every, rank)
    ranked = sorted((value(objective, b, rank, rows), *preference(b, rank, rows)) for b in allowed)
    found = [(solution.objective, solution.shape)] + [(r.objective, r.shape) for r in solution.runners_up]
    assert [(v, *preference(_block(s), rank, rows)) for v, s in found] == ranked[: 1 + runners_up]
    assert solution.proven
    assert solution.feasible == len(every)
    assert all(_block(shape) in every for _, shape in found)


@pytest.mark.parametrize("rank", RANKS)
def test_every_pair_up_to_70_matches_brute_force(rank: int) -> None:
    for m in range(1, 71):
        for n in range(1, 71):
            best, optima = brute_force(m, n, rank)
            solution = solve(m, n, rank=rank, runners_up=0)
            assert (solution.objective, solution.lower_bound) == (best, best), (m, n)
            assert _block(solution.shape) in optima, (m, n)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.sampled_from((1, 7, 512, 100_000)))
def test_large_pairs_match_brute_force_and_ties_break_as_stated(m: int, n: int, rank: int, rows: int) -> None:
    best, optima = brute_force(m, n, rank)
    solution = solve(m, n, rank=rank, rows=rows)
    assert solution.objective == solution.lower_bound == best
    assert _block(solution.shape) == min(optima, key=lambda block: preference(block, rank, rows))


@pytest.mark.parametrize(("m", "n"), [(64, 64), (720, 720), (256, 1024), (360, 2520)])
@pytest.mark.parametrize("rows", [1, 16, 4096])
def test_ties_break_as_stated_where_there_are_many(m: int, n: int, rows: int) -> None:
    _, optima = brute_force(m, n, 4)
    assert len(optima) > 5
    assert _block(solve(m, n, rank=4, rows=rows).shape) == min(optima, key=lambda b: preference(b, 4, rows))


@pytest.mark.parametrize(("m", "n"), [(768, 768), (3072, 768), (4096, 4096), (8192, 28672)])
def test_a_tie_never_costs_matrix_rank(m: int, n: int) -> None:
    assert solve(m, n, rank=4).shape.matrix_rank(4) == min(m, n)


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
    assert chosen == {rows: min(optima, key=lambda b: preference(b, 1, rows)) for rows in (1, 512)}


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 7), (13, 1), (13, 17), (999_999_937, 999_999_929)])
def test_dimensions_without_a_useful_divisor_are_solved(m: int, n: int) -> None:
    candidates = [2 * t + m * n // t for t in (1, m, n, m * n)]
    solution = solve(m, n)
    assert solution.objective == min(candidates)
    assert solution.proven
    assert (solution.shape.m, solution.shape.n) == (m, n)


# The linear layers of BERT, ViT and Llama-70B that have a dimension of 4096 or more, and others.
LARGE = [
    (4096, 1024), (1024, 4096), (30522, 1024), (30522, 768), (5120, 1280), (1280, 5120), (8192, 8192), (1024, 8192),
    (28672, 8192), (8192, 28672), (128256, 8192), (4096, 4096), (11008, 4096), (14336, 4096), (5120, 13824),
    (18944, 3584), (27720, 27720), (32000, 4096),
]  # fmt: skip


@pytest.mark.parametrize(("m", "n"), LARGE)
@pytest.mark.parametrize("rank", RANKS)
def test_the_search_visits_less_than_a_tenth_of_the_pairs(m: int, n: int, rank: int) -> None:
    for objective in ("params", "flops"):
        solution = solve(m, n, rank=rank, objective=objective)  # type: ignore[arg-type]
        pairs = sum(m % d == 0 for d in range(1, m + 1)) * sum(n % d == 0 for d in range(1, n + 1))
        assert solution.feasible == pairs
        assert 0 < solution.nodes <= pairs / 10, objective
        assert solution.proven


def test_where_divisors_are_few_so_are_the_pairs() -> None:
    """29 x 1733 has four divisors: a tree over two primes of its own and one of the other side has seven nodes."""
    solution = solve(50257, 4096)
    assert (solution.nodes, solution.feasible) == (7, 52)


@pytest.mark.parametrize("rank", [1, 2, 3, 8, 16, 32])
def test_a_vocabulary_is_better_off_padded(rank: int) -> None:
    """50257 = 29 x 1733: at these ranks a few more rows give a smaller optimum, whose growth is counted."""
    best, padded = solve(50257, 768, rank=rank), solve(50257, 768, rank=rank, padding=0.002)
    assert padded.objective < best.objective
    assert padded.shape.m > 50257
    assert padded.objective == (1 + rank) * padded.shape.blocks + rank * padded.shape.m2 * padded.shape.n2
    assert "(padded to 5" in str(padded)


def test_padding_is_left_out_where_nothing_is_won() -> None:
    """At rank 4 the unpadded optimum meets the relaxation of the unpadded size."""
    solution = solve(50257, 768, rank=4, padding=0.02)
    assert solution.padding == (0, 0)
    assert solution.objective == solve(50257, 768, rank=4).objective == 55_568


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "speed"}, "objective='speed'; needed one of 'params', 'flops'"),
        ({"objective": "latency"}, "objective='latency' with rates=None; needed the rates of this machine"),
        ({"objective": "deployed"}, r"objective='deployed' .*; pass rates=kronfx.calibrate\(backward=True\)"),
        ({"padding": 2}, "padding=2; needed a share from 0 to 1"),
        ({"padding": True}, "padding=True"),
        ({"runners_up": -1}, "runners_up=-1"),
        ({"block": (0, 4)}, r"block=\(0, 4\); needed a positive integer or a pair"),
        ({"min_block": (1, 2, 3)}, r"min_block=\(1, 2, 3\)"),
        ({"block": (3, None)}, "no m2 that divides 8 is 3; needed constraints that one of 1, 2, 4, 8 meets"),
        ({"min_block": 9}, "no m2 that divides 8 is at least 9"),
        ({"min_block": (None, 100), "max_block": 120}, "no n2 that divides 256 is at least 100 and at most 120"),
        (
            {"multiple_of": 3, "padding": 0.1},
            "no m2 that divides 8 or of what 10.00% more make of it is a multiple",
        ),
    ],
)
def test_impossible_questions_are_sentences(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SolveError, match=f"^solve: 8x256: {sentence}"):
        solve(8, 256, **options)


def test_a_solution_reads_as_a_certificate() -> None:
    assert solve(8, 256).sentence == (
        "8x256 at rank 1: 1x32 of 8x8, 128 parameters (proven optimal: lower bound 128, 1 nodes for 36 feasible pairs)"
    )


def test_rates_are_a_value() -> None:
    assert kx.Rates.from_json(RATES.to_json()) == RATES
    for text in ("{", "[]", '{"format": "kronfx-rates"}', RATES.to_json().replace("20000", '"fast"')):
        with pytest.raises(kx.KronfxError, match="needed the text that Rates.to_json wrote|needed three integers"):
            kx.Rates.from_json(text)
    with pytest.raises(kx.KronfxError, match="needed three integers of at least 0, not all 0"):
        kx.Rates(0, 0, 0)


@given(st.integers(1, 20_000))
def test_factorization_and_divisors(number: int) -> None:
    powers = factorization(number)
    assert all(prime > 1 and all(prime % d for d in range(2, prime)) for prime in powers)
    product_ = 1
    for prime, power in powers.items():
        product_ *= prime**power
    assert product_ == number
    assert sorted(divisors(powers)) == [d for d in range(1, number + 1) if number % d == 0]
