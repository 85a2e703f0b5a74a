"""Which blocks go, against a heap over the rows, taken literally."""

from __future__ import annotations

import heapq
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kronfx as kx
from kronfx.compress.path import Path
from kronfx.compress.share import Candidate, Shares, chosen
from kronfx.records import Site


def candidate(name: str, m1: int, n1: int, seed: int, area: int = 4, floor: float = 0.0) -> Candidate:
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n1, generator=generator) for _ in range(m1)])
    site, path = Site(name, "Linear", 2 * m1, 2 * n1), Path(order, torch.rand(m1, n1, generator=generator))
    return Candidate(site, path, area, torch.zeros(m1, n1, dtype=torch.bool), floor)


def by_heap(candidates: list[Candidate], count: int) -> set[tuple[int, int, int]]:
    """``(map, row, block)`` that go: always the cheapest next step of any row."""
    heap = [
        (float(c.path.costs[p, 0]) / c.area, i, p, 0)
        for i, c in enumerate(candidates)
        for p in range(len(c.path.order))
    ]
    heapq.heapify(heap)
    gone = set()
    for _ in range(count):
        _, i, p, step = heapq.heappop(heap)
        path = candidates[i].path
        gone.add((i, p, int(path.order[p, step])))
        if step + 1 < path.order.shape[1]:
            heapq.heappush(heap, (float(path.costs[p, step + 1]) / candidates[i].area, i, p, step + 1))
    return gone


@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4),
    target=st.floats(0.05, 0.95),
    seed=st.integers(0, 999),
)
def test_the_whole_model_is_one_heap(sizes: list[tuple[int, int]], target: float, seed: int) -> None:
    candidates = [candidate(str(i), *size, seed + i) for i, size in enumerate(sizes)]
    blocks = sum(m1 * n1 for m1, n1 in sizes)
    if target < 0.5 / blocks:
        return
    stays = chosen(candidates, target, "global")
    gone = {(i, *map(int, place)) for i, kept in enumerate(stays) for place in (~kept).nonzero()}
    assert abs(len(gone) - target * blocks) <= 0.5 + 1e-9 or len(gone) == 1
    assert gone == by_heap(candidates, len(gone))


def test_every_map_or_every_row_has_its_share() -> None:
    candidates = [candidate("a", 4, 8, 0), candidate("b", 2, 4, 1)]
    assert [int((~kept).sum()) for kept in chosen(candidates, 0.25, "uniform")] == [8, 2]
    assert [(~kept).sum(1).tolist() for kept in chosen(candidates, 0.25, "rows")] == [[2, 2, 2, 2], [1, 1]]


def test_a_floor_stays_in_every_map() -> None:
    cheap = candidate("cheap", 2, 5, 0, floor=0.3)
    cheap = replace(cheap, path=Path(cheap.path.order, cheap.path.costs / 1e6))
    stays = chosen([cheap, candidate("dear", 2, 5, 1, floor=0.3)], 0.6, "global")
    assert [int(kept.sum()) for kept in stays] == [3, 5]


def test_blocks_count_by_their_entries() -> None:
    large, small = candidate("large", 1, 4, 0, area=12), candidate("small", 1, 12, 1, area=4)
    stays = chosen([large, small], 0.5, "global")
    gone = 12 * int((~stays[0]).sum()) + 4 * int((~stays[1]).sum())
    assert abs(gone - 48) <= 6


@pytest.mark.parametrize("shares", ["global", "uniform", "rows"])
@pytest.mark.parametrize("target", [0.1, 0.3, 0.8])
def test_what_is_gone_stays_so_and_counts(shares: Shares, target: float) -> None:
    gone = torch.rand(4, 10, generator=torch.Generator().manual_seed(1)) < 0.4
    (kept,) = chosen([replace(candidate("a", 4, 10, 0), gone=gone)], target, shares)
    assert not (kept & gone).any()
    if shares == "rows":
        assert torch.equal((~kept).sum(1), gone.sum(1).clamp_min(round(10 * target)))
    else:
        assert int((~kept).sum()) == max(int(gone.sum()), round(40 * target))


def test_a_floor_brings_nothing_back() -> None:
    gone = torch.zeros(2, 5, dtype=torch.bool)
    gone[0, :4] = True
    (kept,) = chosen([replace(candidate("a", 2, 5, 0, floor=0.8), gone=gone)], 0.2, "global")
    assert torch.equal(kept, ~gone)


@pytest.mark.parametrize(("target", "floor"), [(0.9, 0.5), (0.01, 0.0)])
def test_a_share_that_no_blocks_make(target: float, floor: float) -> None:
    with pytest.raises(
        kx.KronfxError, match=f"prune: a .4x10.: target={target} of 10 blocks, of which .* may go; needed"
    ):
        chosen([candidate("a", 2, 5, 0, floor=floor)], target, "global")
