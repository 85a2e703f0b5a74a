"""What a question of the integer program is held to, before it is asked; the planner asks the same."""

from __future__ import annotations

from kronfx.errors import SolveError
from kronfx.solver.objectives import OBJECTIVES, Objective

Pair = int | tuple[int | None, int | None] | None  # of the block: (m2, n2), either of them free, or both the same


def positive(where: str, name: str, value: object) -> int:
    """An int of at least 1. Raises SolveError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        remedy = f"pass {name} as an int of at least 1"
        raise SolveError(where, f"{name} is {value!r}", "a positive integer", remedy)
    return value


def count(where: str, name: str, value: object) -> int:
    """An int of at least 0. Raises SolveError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SolveError(where, f"{name}={value!r}", "an int of at least 0", "pass 3, say")
    return value


def pair(where: str, name: str, value: object) -> tuple[int | None, int | None]:
    """``(m2, n2)``, either of them None for free; an int stands for both. Raises SolveError."""
    given = value if isinstance(value, (tuple, list)) else (value, value)
    sizes = [size for size in given if size is not None]
    if len(given) != 2 or any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes):
        needed = "a positive integer or a pair (m2, n2) of them, either one None for free"
        raise SolveError(where, f"{name}={value!r}", needed, f"pass {name}=(8, 8), say")
    return given[0], given[1]


def share(where: str, name: str, value: object) -> float:
    """From 0 to 1. Raises SolveError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise SolveError(where, f"{name}={value!r}", "a share from 0 to 1", "pass 0.02 for at most 2% more")
    return value


def objective(where: str, name: str, value: object) -> Objective:
    """A name of the table. Raises SolveError."""
    for known in OBJECTIVES:
        if value == known:
            return known
    listed = ", ".join(map(repr, OBJECTIVES))
    raise SolveError(where, f"{name}={value!r}", f"one of {listed}", "choose one of these")
