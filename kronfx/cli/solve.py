"""``kronfx solve``: the integer program of one layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from typing_extensions import Unpack

from kronfx.cli.verb import Answer
from kronfx.solver import SolveKeywords
from kronfx.solver import solve as solved

Rows = Annotated[int, typer.Argument(metavar="OUT_FEATURES", help="m of W [m, n].")]
Columns = Annotated[int, typer.Argument(metavar="IN_FEATURES", help="n of W [m, n].")]


def solve(out_features: Rows, in_features: Columns, **wishes: Unpack[SolveKeywords]) -> Answer:
    """The best block shape of one layer W [m, n], with its proof."""
    solution = solved(out_features, in_features, **wishes)
    return Answer(solution, {**asdict(solution), "proven": solution.proven})
