"""``kronfx.solve``: the question is checked, the search chosen, the answer ranked."""

from __future__ import annotations

from typing_extensions import Unpack

from kronfx.cost import by_multiply_adds, work
from kronfx.errors import SolveError
from kronfx.options import keywords
from kronfx.records import KroneckerShape, RunnerUp, Solution
from kronfx.solver import checks
from kronfx.solver.checks import Pair
from kronfx.solver.grids import Cut, Side, cuts, grids
from kronfx.solver.objectives import OBJECTIVES
from kronfx.solver.objectives.question import MULTIPLY_ADDS, Question
from kronfx.solver.options import SolveKeywords, SolveOptions
from kronfx.solver.ranking import Ranking


@keywords(SolveOptions)
def solve(out_features: int, in_features: int, **wishes: Unpack[SolveKeywords]) -> Solution:
    """The block shape ``m1 m2 = m = out_features``, ``n1 n2 = n = in_features`` that is best, with the proof.

    Equally good shapes are told apart by the rank that ``W`` can have as a matrix (the greatest first, see the
    package), the multiply-adds of their best evaluation, its largest intermediate, the parameters, the tallest block
    (measured: ``kronfx/decisions/tall_blocks.md``).

    Raises SolveError: an argument that is no positive integer, constraints that no block meets, no rates for an
    objective that is a time.
    """
    where = f"{out_features}x{in_features}"
    for name, number in {"out_features": out_features, "in_features": in_features}.items():
        checks.positive(where, name, number)
    try:
        options = SolveOptions(**wishes)
    except SolveError as error:
        raise SolveError(where, error.found, error.needed, error.remedy) from None
    rank, rows, taps = options.rank, options.rows, options.taps
    both = sides(where, options.block, options.min_block, options.max_block, options.multiple_of)
    sizes = zip((out_features, in_features), both, ("m2", "n2"))
    by_rows, by_columns = (_cuts(where, size, side, name, options.padding) for size, side, name in sizes)
    feasible = grids(by_rows, by_columns, taps)
    ranking = Ranking(1 + options.runners_up)
    wanted = OBJECTIVES[options.objective]
    asked = Question(rank, rows, MULTIPLY_ADDS if options.rates is None else options.rates)
    wanted.search(feasible, asked, ranking)
    (value, shape), *others = sorted(ranking.best(), key=lambda one: (one[0], *preference(one[1], rank, rows, taps)))
    return Solution(
        shape=shape,
        rank=rank,
        objective=value,
        lower_bound=int(ranking.lower_bound),
        nodes=ranking.nodes,
        feasible=sum(map(len, feasible)),
        out_features=out_features,
        in_features=in_features * taps,
        evaluation=wanted.evaluation(asked, shape, taps),
        measure=options.objective,
        unit=wanted.unit,
        runners_up=tuple(RunnerUp(shape, value) for value, shape in others[: options.runners_up]),
    )


Preference = tuple[int, int, int, int, int, int]


def preference(shape: KroneckerShape, rank: int, rows: int, taps: int) -> Preference:
    """What tells equally good shapes apart, best first (the order of :func:`solve`)."""
    costs = (work(shape, rank, rows, evaluation, taps) for evaluation in ("a_first", "b_first", "materialize"))
    forward, intermediate = min(map(by_multiply_adds, costs))
    return -shape.matrix_rank(rank), forward, intermediate, shape.parameters(rank), -shape.m2, shape.n2


def shapes(
    out_features: int,
    in_features: int,
    *,
    taps: int = 1,
    block: Pair = None,
    min_block: Pair = None,
    max_block: Pair = None,
    multiple_of: Pair = None,
) -> list[KroneckerShape]:
    """Every shape that these constraints of :func:`solve` allow, unpadded. Raises SolveError where there is none."""
    where = f"{out_features}x{in_features}"
    row, column = sides(where, block, min_block, max_block, multiple_of)
    by_rows = _cuts(where, out_features, row, "m2", 0.0)
    by_columns = _cuts(where, in_features, column, "n2", 0.0)
    return [
        grid.shape(m1, n1)
        for grid in grids(by_rows, by_columns, taps)
        for m1 in grid.rows.counts
        for n1 in grid.columns.counts
    ]


def sides(where: str, *constraints: Pair) -> tuple[Side, Side]:
    """The constraints of rows and of columns."""
    names = ("block", "min_block", "max_block", "multiple_of")
    pairs = [checks.pair(where, name, wish) for name, wish in zip(names, constraints)]
    return Side(*(pair[0] for pair in pairs)), Side(*(pair[1] for pair in pairs))


def _cuts(where: str, size: int, side: Side, name: str, padding: float) -> list[Cut]:
    found = cuts(size, side, padding)
    if not found:
        every = ", ".join(map(str, cuts(size, Side(), 0)[0].counts))
        grown = f" or of what {padding:.2%} more make of it" if padding else ""
        sentence = f"no {name} that divides {size}{grown} is {side}"
        raise SolveError(where, sentence, f"constraints that one of {every} meets", "relax them, or allow padding")
    return found
