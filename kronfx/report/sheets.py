"""Rows of a report -> sheets of a page, with what is to be seen of each layer's values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from kronfx import kron
from kronfx.layers import Factors, KroneckerConv, folded_layers, kronecker_layers, named_sites
from kronfx.page import BlockMap, Picture, Proof, RunnerUp, Sheet, block_map, cells_a_side, picture
from kronfx.records import EVALUATIONS, Choice, Evaluated, KroneckerShape
from kronfx.report.report import Layer
from kronfx.solver import solve

TERMS = 3  # of A and of B that are drawn


def sheet(layer: Layer, taps: int = 1) -> Sheet:
    """What the row itself says; of a convolution, whose kernel has so many ``taps``."""
    shape = layer.grid
    factored = _evaluated(layer, taps)
    return Sheet(
        site=layer.site,
        state=layer.state,
        m=layer.m,
        n=layer.n,
        runs_as=layer.runs_as,
        shape=shape,
        rank=layer.rank,
        factored=factored,
        stack=layer.stack,
        dense=layer.dense,
        stored=layer.stored,
        dense_work=layer.dense,
        work=_work(layer, shape, factored),
        zero_blocks=layer.zero_blocks,
        blocks=None if layer.zero_blocks is None else layer.blocks,
        energy=layer.energy,
        predicted=layer.predicted,
        measured=layer.measured,
    )


@torch.no_grad()
def of_model(model: nn.Module, layers: Sequence[Layer]) -> tuple[Sheet, ...]:
    """A sheet a layer, with its block map and its factors, in the order of the model."""
    factored, folded = kronecker_layers(model), folded_layers(model)
    side = cells_a_side(len(factored) + len(folded))
    sheets = []
    for layer in layers:
        own = factored[layer.site] if layer.state == "factored" else None
        known = sheet(layer, own.taps if isinstance(own, KroneckerConv) else 1)
        if own is not None and not own.S.is_meta:
            known = replace(known, map=block_norms(own.factors.materialize(), own.grid, side))
            known = replace(known, factors=pictures(own.factors, side))
        elif layer.state == "folded" and not folded[layer.site].weight.is_meta:
            weight = folded[layer.site]
            known = replace(known, map=block_norms(weight.weight, weight.shape, side))
        sheets.append(known)
    places = {name: place for place, (name, _) in enumerate(named_sites(model))}
    return tuple(sorted(sheets, key=lambda known: _place(known.site, places)))


def _place(site: str, places: dict[str, int]) -> int:
    """Of the module that a site is, or lies in."""
    while site and site not in places:
        site = site.rpartition(".")[0]
    return places.get(site, 0)


def _evaluated(layer: Layer, taps: int) -> Evaluated | None:
    for evaluation in EVALUATIONS:
        if layer.rank is not None and evaluation == layer.runs_as:
            return Evaluated(layer.rank, evaluation, taps)
    return None


def _work(layer: Layer, shape: KroneckerShape | None, factored: Evaluated | None) -> int | None:
    """Multiply-adds a row."""
    if layer.runs_as in ("linear", "dense"):
        return layer.dense
    if shape is not None and layer.runs_as.startswith("blocks") and layer.zero_blocks is not None:
        return ((layer.blocks or 0) - layer.zero_blocks) * shape.m2 * shape.n2
    return None if shape is None or factored is None else layer.stack * factored.multiply_adds(shape)


def proof(choice: Choice) -> Proof | None:
    """What the integer program answers where nothing is wished but the rank, held against the choice."""
    site = choice.site
    if site.taps > 1:
        return None
    return _proof(site.m, site.n, choice.rank, choice.shape)


@lru_cache(maxsize=1024)
def _proof(m: int, n: int, rank: int, shape: KroneckerShape) -> Proof:
    solution = solve(m, n, rank=rank)
    end = "the plan's choice" if solution.shape == shape else (
        f"the plan's {shape} has {shape.parameters(rank):,}: its block, or another objective, was asked for"
    )  # fmt: skip
    ranked = tuple(RunnerUp(str(one.shape), one.objective) for one in solution.runners_up)
    first = RunnerUp(str(solution.shape), solution.objective)
    return Proof(f"fewest parameters: {solution}; {end}", solution.unit, (first, *ranked),
                 f"kx.solve({m}, {n}, rank={rank})")  # fmt: skip


@torch.no_grad()
def block_norms(W: Tensor, shape: KroneckerShape, side: int) -> BlockMap:
    """The Frobenius norms of the blocks of ``W [..., m, n]``, those of a stack one below the other."""
    blocks = kron.blocks_of(W.detach().cpu(), shape)
    norms = torch.linalg.vector_norm(blocks, dim=(-2, -1), dtype=torch.float64)
    return block_map(norms.reshape(-1, shape.n1).numpy(), side)


def pictures(factors: Factors, side: int) -> tuple[Picture, ...]:
    """``S`` and the first terms of ``A`` and ``B``; of a stack its first."""
    S, A, B = (factor.detach().float().cpu() for factor in (factors.S, factors.A, factors.B))
    while S.ndim > 2:
        S, A, B = S[0], A[0], B[0]
    drawn = [("S", S), *((f"A{i + 1}", term) for i, term in enumerate(A[:TERMS]))]
    drawn += [(f"B{i + 1}", term) for i, term in enumerate(B[:TERMS])]
    return tuple(picture(name, matrix.numpy(), side, signed=True) for name, matrix in drawn)
