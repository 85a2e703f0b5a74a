"""What a site may become under a budget: shapes and ranks, what each costs, what each is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kronfx.errors import SolveError
from kronfx.planner.choose import Setting, solved, unsolved
from kronfx.planner.wishes import Wish
from kronfx.records import EVALUATIONS, KroneckerShape, Site
from kronfx.solver import preference, shapes

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

MEASURED_RANKS = (1, 2, 4, 8)  # the integer program's two best shapes at each are those whose energy is looked at
EVERY_RANK = 64  # up to here every rank is tried, beyond it steps of 5%


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of one site, equal in length: the index into ``shapes`` (-1: left dense), the rank, the costs, the value.

    ``costs [candidates, 2]``: parameters and multiply-adds over the expected rows.
    """

    shapes: tuple[KroneckerShape, ...]
    which: Integers
    ranks: Integers
    costs: Integers
    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    def only(self, kept: NDArray[np.bool_] | Integers) -> Candidates:
        """Some of them."""
        return Candidates(
            shapes=self.shapes,
            which=self.which[kept],
            ranks=self.ranks[kept],
            costs=self.costs[kept],
            values=self.values[kept],
        )


def candidates_of(site: Site, wish: Wish, setting: Setting) -> Candidates | str:
    """Every candidate of a site, or the reason why it has none.

    The value of a candidate is the logarithm of the share of ``||W||^2`` that it keeps: layers are composed, so
    shares multiply (measured: ``kronfx/decisions/worth_of_a_choice.md``). With energies the shapes are the integer
    program's best and first runner-up at a few ranks, with those of outputs plain low rank too. Without, the share is a
    surrogate, ``log(1 + r) / log(1 + R)`` with ``R = min(m1 n1, m2 n2)``. It depends on ``m1 n1`` alone, as the
    parameters do, so every ``m1 n1`` counts, each in its preferred shape.
    """
    found = _measured_shapes(site, wish, setting) if setting.energies else _shapes_by_product(site, wish, setting)
    if isinstance(found, str):
        return found
    parts = [_of_shape(site, wish, setting, number, shape) for number, shape in enumerate(found)]
    if not wish.named & {"rank", "block"}:  # whoever asks for this very layer's does not mean it to stay dense
        parts.append(_dense(site, setting))
    which, ranks, costs, values = (np.concatenate(arrays) for arrays in zip(*parts))
    return Candidates(shapes=tuple(found), which=which, ranks=ranks, costs=costs, values=values)


def _measured_shapes(site: Site, wish: Wish, setting: Setting) -> list[KroneckerShape] | str:
    ranks = (wish.rank,) if isinstance(wish.rank, int) else MEASURED_RANKS
    spanning = _spanning(site, wish) if setting.energies is not None and setting.energies.spanning else []
    solutions = [solved(site, wish, rank, setting, runners_up=1) for rank in ranks]
    found = [solution for solution in solutions if not isinstance(solution, str)]
    best = [shape for one in found for shape in (one.shape, *(other.shape for other in one.runners_up))]
    return list(dict.fromkeys(best + spanning)) if found else str(solutions[0])


def _spanning(site: Site, wish: Wish) -> list[KroneckerShape]:
    """The lowest blocks as wide as the map."""
    try:
        found = shapes(site.m, site.channels, taps=site.taps, **wish.constraints)
    except SolveError:
        return []
    return sorted((shape for shape in found if shape.n1 == 1), key=lambda shape: shape.m2)[:1]


def _shapes_by_product(site: Site, wish: Wish, setting: Setting) -> list[KroneckerShape] | str:
    """One unpadded shape for each ``m1 n1``, and the padded ones that the integer program would choose."""
    padded = wish.padding > 0 and site.taps == 1
    found: list[KroneckerShape] = []
    try:
        found = shapes(site.m, site.channels, taps=site.taps, **wish.constraints)
    except SolveError as error:
        if not padded:
            return unsolved(site, wish, error)
    if padded:
        solutions = [solved(site, wish, rank, setting) for rank in (1, 2, 4, 8, 16, 32)]
        found += [solution.shape for solution in solutions if not isinstance(solution, str)]
        if not found:
            return str(solutions[0])
    best: dict[tuple[int, int, int], KroneckerShape] = {}
    for shape in found:
        key = shape.blocks, shape.m, shape.n
        if key not in best or _preferred(shape, site, setting) < _preferred(best[key], site, setting):
            best[key] = shape
    return list(best.values())


def _preferred(shape: KroneckerShape, site: Site, setting: Setting) -> tuple[object, ...]:
    return preference(shape, 1, setting.rows, site.taps)


def _of_shape(
    site: Site, wish: Wish, setting: Setting, number: int, shape: KroneckerShape
) -> tuple[Integers, Integers, Integers, Floats]:
    ranks = _ranks(wish, shape)
    parameters = site.stack * ((1 + ranks) * shape.blocks + ranks * shape.m2 * shape.n2)
    by_evaluation = [
        site.stack * np.array([sum(shape.products(int(r), setting.rows, e, site.taps)) for r in ranks], np.int64)
        for e in EVALUATIONS
    ]
    costs = np.stack([parameters, np.minimum.reduce(by_evaluation)], axis=1)
    if setting.energies is None:
        shares = np.log1p(ranks) / np.log1p(shape.max_rank)
    else:
        shares = np.asarray(setting.energies(site, shape), dtype=np.float64)[ranks - 1]
    kept = np.arange(len(ranks))
    if setting.skip_unprofitable:
        kept = np.flatnonzero((costs < _dense(site, setting)[2]).all(axis=1))
    return np.full(len(ranks), number)[kept], ranks[kept], costs[kept], site.stack * np.log(shares[kept])


def _ranks(wish: Wish, shape: KroneckerShape) -> Integers:
    if wish.rank == "full":
        return np.array([shape.max_rank])
    if wish.rank is not None:
        return np.array([wish.rank] if wish.rank <= shape.max_rank else [], dtype=np.int64)
    most = shape.max_rank
    each = np.arange(1, min(most, EVERY_RANK) + 1)
    if most <= EVERY_RANK:
        return each
    steps = np.geomspace(EVERY_RANK, most, 2 + int(20 * np.log(most / EVERY_RANK)))
    return np.unique(np.concatenate([each, np.rint(steps)])).astype(np.int64)


def _dense(site: Site, setting: Setting) -> tuple[Integers, Integers, Integers, Floats]:
    """The site as it is: all it costs, nothing lost. A weight that others share costs nothing to keep."""
    parameters = 0 if site.sharers > 1 else site.parameters
    costs = np.array([[parameters, site.multiply_adds(setting.rows)]], dtype=np.int64)
    return np.array([-1]), np.array([0]), costs, np.array([0.0])
