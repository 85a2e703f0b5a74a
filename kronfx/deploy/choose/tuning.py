"""Which lowering each layer gets: the one asked for, the smallest, the fastest by the clock, or by a cost model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime

from kronfx.deploy.choose.one_layer import alone
from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.lowerings import LOWERINGS, candidates
from kronfx.deploy.lower.lowerings.price import NODE
from kronfx.deploy.options import Options
from kronfx.deploy.records.timings import Timing, Timings, timings_of
from kronfx.records import Lowering

Name = TypeVar("Name", bound=Hashable)
TIE = 0.97  # a lowering must take less than this share of the dense time to replace it
NOISE = 5e-6  # seconds that two runs of the same graph differ by
_LEAST_SECONDS, _LEAST_RUNS, _MOST_RUNS = 0.03, 5, 200


Lowerings = tuple[Lowering, ...]  # one for each layer of a graph, in its order


@dataclass(frozen=True, slots=True)
class Chosen:
    """The ``lowerings`` chosen layer by layer; ``boldest``, where a whole file is to be tried as well, is the fastest
    of each layer that is not dense. ``timings`` holds what was timed."""

    lowerings: Lowerings
    boldest: Lowerings | None
    timings: Timings

    @property
    def contenders(self) -> tuple[Lowerings, ...]:
        """What is worth timing as a whole, each once."""
        return tuple(dict.fromkeys((self.lowerings, self.boldest or self.lowerings)))

    @property
    def dense(self) -> Lowerings:
        """Nothing but dense products."""
        return tuple("dense" for _ in self.lowerings)


def choose(layers: Sequence[Layer], wishes: Options, step: Callable[[str], None]) -> Chosen:
    """A lowering for every layer; ``step`` hears what is being timed."""
    known = list(timings_of(wishes.timings).entries)
    options = [candidates(layer) for layer in layers]
    if wishes.lowering != "auto":
        asked: Lowering = wishes.lowering
        fitting: Lowerings = tuple(asked if asked in names else "dense" for names in options)
        return Chosen(fitting, None, Timings.here(known))
    picked: list[Lowering] = []
    bold: list[Lowering] = []
    for i, (layer, names) in enumerate(zip(layers, options, strict=True)):
        if len(names) > 1 and wishes.optimize_for == "latency" and wishes.tune:
            step(f"timing {layer.name} ({i + 1} of {len(layers)})")
        best, boldest = _best(layer, names, wishes, known)
        picked.append(best)
        bold.append(boldest)
    free = wishes.optimize_for == "latency" and wishes.tune
    return Chosen(tuple(picked), tuple(bold) if free else None, Timings.here(known))


def _best(layer: Layer, names: Sequence[Lowering], wishes: Options, known: list[Timing]) -> tuple[Lowering, Lowering]:
    """The best lowering of a layer, and the best of those that are not dense."""
    if len(names) == 1:
        return "dense", "dense"
    if wishes.optimize_for == "size":
        work = {name: sum(LOWERINGS[name].cost(layer, n) for n in wishes.rows) for name in names}
        best = min(names, key=lambda name: (LOWERINGS[name].stored(layer), work[name]))
        return best, best
    if not wishes.tune:
        costs = {name: [LOWERINGS[name].cost(layer, n) for n in wishes.rows] for name in names}
        return fastest(costs, "dense", 2 * NODE), "dense"
    costs = {name: [_timed(layer, name, n, known) for n in wishes.rows] for name in names}
    return fastest(costs, "dense", NOISE), min(names[1:], key=lambda name: math.prod(costs[name]))


def fastest(costs: Mapping[Name, Sequence[float]], dense: Name, noise: float) -> Name:
    """The least geometric mean over the cases, of those that lose to ``dense`` in none of them; it on a tie.

    To lose is to take over 3% and ``noise`` longer.
    """
    base = costs[dense]
    if math.inf in base:
        return dense  # nothing to compare with: onnxruntime has no kernel for this type

    def ratio(name: Name) -> float:
        pairs = list(zip(costs[name], base, strict=True))
        loses = any(cost > least / TIE + noise for cost, least in pairs)
        return math.inf if loses else math.exp(sum(math.log(cost / least) for cost, least in pairs) / len(pairs))

    best = min((name for name in costs if name != dense), key=ratio, default=dense)
    return best if ratio(best) < TIE else dense


def fingerprint(layer: Layer) -> str:
    """All that decides how long a layer takes, as text: layers that agree in it are timed once."""
    shape, linear = layer.shape, layer.linear
    zero = round(100 * layer.kept.zero_blocks / shape.blocks)
    m2, n2 = shape.block
    text = f"{shape.m}x{shape.n} in {m2}x{n2}, {zero}% zero, {linear.stored.dtype}, {linear.node.op_type}"
    known = layer.known
    factored = f", rank {known.factors.rank} {known.evaluation}" if known and known.factors else ""
    return f"{text}, {linear.rank} axes{factored}"


def _timed(layer: Layer, lowering: Lowering, rows: int, known: list[Timing]) -> float:
    label = fingerprint(layer)
    seconds = Timings(tuple(known)).seconds(label, lowering, rows)
    if seconds is None:
        seconds = _measure(*alone(layer, lowering, rows))
        if seconds < math.inf:
            known.append(Timing(label, lowering, rows, seconds))
    return seconds


def _measure(model: ir.Model, x: np.ndarray[Any, Any]) -> float:
    """Median seconds of a run; infinite where onnxruntime cannot run it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        content = ir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        seconds = run_seconds(partial(session.run, None, {"x": x}))
    except Exception:  # onnxruntime has one class for every status code, and no common one
        return math.inf
    return seconds


def run_seconds(run: Callable[[], object], least: float = _LEAST_SECONDS) -> float:
    """Median seconds of a run, warmed up, all in one go: threads of a session that waits disturb the others."""
    for _ in range(2):
        run()
    taken: list[float] = []
    started = time.perf_counter()
    while (passed := time.perf_counter() - started) < least or len(taken) < _LEAST_RUNS:
        if len(taken) == _MOST_RUNS or passed > _LEAST_RUNS * least:  # one run of a slow model says enough
            break
        before = time.perf_counter()
        run()
        taken.append(time.perf_counter() - before)
    return float(np.median(taken))
