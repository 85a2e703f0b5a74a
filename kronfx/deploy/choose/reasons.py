"""Why a layer runs as it does and not the other way, in a sentence a person can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kronfx.records import Lowering

Costs = Mapping[Lowering, Sequence[float]]
Refusals = Mapping[Lowering, str | None]


def as_asked(asked: Lowering, lowering: Lowering, refusals: Refusals) -> str:
    """``lowering`` was ``asked`` for, or that was refused."""
    return f"{lowering} as asked" if lowering == asked else _with(lowering, {asked: refusals[asked]})


def only_dense(refusals: Refusals) -> str:
    """Nothing but dense can take the layer."""
    return _with("dense", refusals)


def by_clock(lowering: Lowering, seconds: Costs, rows: Sequence[int], refusals: Refusals) -> str:
    """What was timed, at each number of rows."""
    if math.inf in seconds["dense"]:
        return _with("dense: onnxruntime does not run it here, so that there is nothing to beat", refusals)
    return _with(_won(lowering, "by the clock", seconds, 1e-3, "ms", rows), refusals)


def by_model(lowering: Lowering, work: Costs, rows: Sequence[int], refusals: Refusals) -> str:
    """What the cost model said, at each number of rows."""
    return _with(_won(lowering, "by the cost model", work, 1e6, "million multiply-adds", rows), refusals)


def by_size(lowering: Lowering, sizes: Mapping[Lowering, int], refusals: Refusals) -> str:
    """The bytes of each."""
    figures = ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items())
    return _with(f"{lowering} is smallest: {figures}", refusals)


def as_a_whole(lowering: Lowering, own: Lowering, why: str) -> str:
    """``lowering`` in the fastest file, though the layer's ``own`` choice was another."""
    if lowering == own:
        return why
    whole = "no other file beat the dense one" if lowering == "dense" else "the whole file ran faster so"
    return f"{lowering}: {whole}; on its own {why}"


def _won(lowering: Lowering, how: str, costs: Costs, unit: float, name: str, rows: Sequence[int]) -> str:
    """Dense is kept where no other is faster by enough, see ``tuning.fastest``, though it did not win throughout."""
    wins = all(least <= cost for other in costs.values() for least, cost in zip(costs[lowering], other, strict=True))
    verb = "won" if wins or lowering != "dense" else "kept"
    figures = ", ".join(f"{other} {_listed(values, unit)} {name}" for other, values in costs.items())
    return f"{lowering} {verb} {how}: {figures} at {' / '.join(map(str, rows))} row{'s' * (tuple(rows) != (1,))}"


def _listed(values: Sequence[float], unit: float) -> str:
    return " / ".join(f"{value / unit:.3g}" for value in values)


def _with(sentence: str, refusals: Refusals) -> str:
    """And what was refused."""
    refused = [f"{name} refused: {why}" for name, why in refusals.items() if why is not None]
    return "; ".join([sentence, *refused])
