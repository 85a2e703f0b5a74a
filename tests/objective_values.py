"""What every objective of the integer program is worth at a shape, from the tables of the design and the decisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt

from oracles import Block

import kronfx as kx

RATES = kx.Rates(20_000, 300_000, 2_000_000_000_000)
LARGE, FEW = 2**20, 512  # entries between two products that a step forms in portions; rows below which twice as many


def products(block: Block, rank: int, rows: int) -> Iterator[tuple[int, int, int]]:
    """Multiply-adds, entries touched and largest intermediate of each evaluation: the design's table."""
    m1, n1, m2, n2 = block
    m, n = m1 * m2, n1 * n2
    outside, weights = rows * (n + m), rank * (m1 * n1 + m2 * n2)
    for inner, macs in ((m1 * n2, m1 * n2 * (n1 + m2)), (n1 * m2, n1 * m2 * (n2 + m1))):
        yield rows * rank * macs, outside + 2 * rows * rank * inner + weights, rows * rank * inner
    yield (rows + rank) * m * n, outside + 2 * m * n + weights, 0


def matrix_rank(block: Block, rank: int) -> int:
    m1, n1, m2, n2 = block
    return min(m1 * m2, n1 * n2, rank * min(m1, n1) * min(m2, n2))


def preference(block: Block, rank: int, rows: int) -> tuple[int, int, int, int, int, int]:
    """The stated order of equally good shapes."""
    m1, n1, m2, n2 = block
    forward, intermediate = min((macs, inner) for macs, _, inner in products(block, rank, rows))
    parameters = (1 + rank) * m1 * n1 + rank * m2 * n2
    return -matrix_rank(block, rank), forward, intermediate, parameters, -m2, n2


def training_step(block: Block, rank: int, rows: int, rates: kx.Rates) -> int:
    """The shortest, by the table of ``decisions/clock.md``."""
    m1, n1, m2, n2 = block
    x, y, W = rows * n1 * n2, rows * m1 * m2, m1 * m2 * n1 * n2
    (a_macs, _, a_inner), (b_macs, _, b_inner), (w_macs, _, _) = products(block, rank, rows)
    steps = [(3 * w_macs, 3 * (x + y) + 8 * W, 6)]
    for macs, inner, summed, once, weight in ((a_macs, a_inner, y, x, 20), (b_macs, b_inner, x, y, 17)):
        if inner < LARGE * (1 if rows >= FEW else 2):
            steps.append((3 * macs, weight * (7 * inner + 4 * (x + y)) // 20, 6))
        else:
            entries = 7 * inner + (2 * rank + 8) * summed + 6 * once
            steps.append((7 * macs // 2, weight * entries // 20, 2 * rank + 5))
    return min(
        macs * rates.multiply_add + entries * rates.entry + calls * rates.product for macs, entries, calls in steps
    )


def file_run(block: Block, rows: int) -> int:
    """Of a layer with one block in ten left, in multiply-adds, by the prices of ``decisions/price.md``."""
    m1, n1, m2, n2 = block
    m, n = m1 * m2, n1 * n2
    left, gathered, nodes = m * n // 10, m1 * n // 10, 3 * min(m1, 1 + isqrt(n1)) + 6
    work = left * (13 * rows + 120) // 10 + rows * (20 * gathered + 40 * m + 30 * (m + n)) + nodes * 200_000
    return min(work, m * n * (rows + 12) + 200_000)


def value(objective: str, block: Block, rank: int, rows: int, rates: kx.Rates = RATES) -> int:
    """What is minimized."""
    m1, n1, m2, n2 = block
    if objective == "params":
        return (1 + rank) * m1 * n1 + rank * m2 * n2
    if objective == "deployed":
        return training_step(block, rank, rows, rates) + file_run(block, rows) * rates.multiply_add
    each = list(products(block, rank, rows))
    if objective == "latency":
        return min(rates.multiply_add * macs + rates.entry * entries + 2 * rates.product for macs, entries, _ in each)
    return min(macs for macs, _, _ in each) * (3 if objective == "training_flops" else 1)


def admitted(objective: str, every: Sequence[Block], rank: int) -> list[Block]:
    """The shapes that may be the answer: under ``deployed`` those of the greatest matrix rank, padding not counted."""
    if objective != "deployed":
        return list(every)
    full = min(min(m1 * m2, n1 * n2) for m1, n1, m2, n2 in every)
    greatest = min(full, max(matrix_rank(block, rank) for block in every))
    return [block for block in every if matrix_rank(block, rank) >= greatest]
