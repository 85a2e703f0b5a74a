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

from kronfx.deploy.choose import reasons
from kronfx.deploy.choose.one_layer import alone
from kronfx.deploy.choose.reasons import as_a_whole
from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.lowerings import LOWERINGS, refusals
from kronfx.deploy.options import Options
from kronfx.deploy.records.timings import Timing, Timings, timings_of
from kronfx.page import Lap
from kronfx.price import NODE
from kronfx.progress import bar
from kronfx.records import Lowering

Name = TypeVar("Name", bound=Hashable)
TIE = 0.97  # a lowering must take less than this share of the dense time to replace it
BEST, BOLDEST = "best", "boldest"  # names of contenders
NOISE = 5e-6  # seconds that two runs of the same graph differ by
_LEAST_SECONDS, _LEAST_RUNS, _MOST_RUNS = 0.03, 5, 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """One layer on its own: the best ``lowering`` and ``why``; ``boldest`` is the best of those that are not dense;
    ``laps`` what each took, where they were timed."""

    lowering: Lowering
    why: str
    boldest: Lowering
    laps: tuple[Lap, ...] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to write a file: a lowering for each layer of a graph, in its order, why that one, and what was timed."""

    lowerings: tuple[Lowering, ...]
    whys: tuple[str, ...]
    laps: tuple[tuple[Lap, ...], ...]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen layer by layer, and whether whole files are to race; ``timings`` holds what was timed."""

    verdicts: tuple[Verdict, ...]
    races: bool
    timings: Timings

    @property
    def best(self) -> Contender:
        """What won layer by layer."""
        return self._contender([verdict.lowering for verdict in self.verdicts])

    @property
    def dense(self) -> Contender:
        """Nothing but dense products."""
        return self._contender(["dense" for _ in self.verdicts])

    @property
    def contenders(self) -> dict[str, Contender]:
        """What is worth timing as a whole, by name, each once: the best of each layer, the boldest of each layer."""
        boldest = self._contender([verdict.boldest for verdict in self.verdicts])
        if not self.races or boldest.lowerings == self.best.lowerings:
            return {BEST: self.best}
        return {BEST: self.best, BOLDEST: boldest}

    def _contender(self, lowerings: list[Lowering]) -> Contender:
        pairs = zip(lowerings, self.verdicts, strict=True)
        whys = tuple(as_a_whole(lowering, verdict.lowering, verdict.why) for lowering, verdict in pairs)
        return Contender(tuple(lowerings), whys, tuple(verdict.laps for verdict in self.verdicts))


def choose(layers: Sequence[Layer], wishes: Options) -> Chosen:
    """A lowering for every layer."""
    measured = list(timings_of(wishes.timings).entries)
    verdicts = []
    by_clock = wishes.lowering == "auto" and wishes.optimize_for == "latency" and wishes.tune
    with bar("timing" if by_clock else "choosing", len(layers)) as begin:
        for layer in layers:
            begin(layer.name)
            verdicts.append(_verdict(layer, refusals(layer), wishes, measured))
    return Chosen(tuple(verdicts), by_clock, Timings.here(measured))


def _fitting(refused: Mapping[Lowering, str | None]) -> list[Lowering]:
    """The lowerings that can take a layer, ``dense`` first."""
    return [name for name, why in refused.items() if why is None]


def _verdict(layer: Layer, refused: Mapping[Lowering, str | None], wishes: Options, measured: list[Timing]) -> Verdict:
    names, rows = _fitting(refused), wishes.rows
    if wishes.lowering != "auto":
        asked: Lowering = wishes.lowering
        lowering = asked if asked in names else "dense"
        return Verdict(lowering, reasons.as_asked(asked, lowering, refused), lowering)
    if len(names) == 1:
        return Verdict("dense", reasons.only_dense(refused), "dense")
    if wishes.optimize_for == "size":
        sizes = {name: LOWERINGS[name].stored(layer) for name in names}
        best = min(names, key=lambda name: (sizes[name], sum(_work(layer, name, rows))))
        return Verdict(best, reasons.by_size(best, sizes, refused), best)
    if not wishes.tune:
        work = {name: _work(layer, name, rows) for name in names}
        best = fastest(work, "dense", 2 * NODE)
        return Verdict(best, reasons.by_model(best, work, rows, refused), best)
    seconds = {name: [_timed(layer, name, n, measured) for n in rows] for name in names}
    best = fastest(seconds, "dense", NOISE)
    boldest = min(names[1:], key=lambda name: math.prod(seconds[name]))
    laps = (Lap(name, n, taken) for name, all_taken in seconds.items() for n, taken in zip(rows, all_taken))
    run = tuple(lap for lap in laps if lap.seconds < math.inf)
    return Verdict(best, reasons.by_clock(best, seconds, rows, refused), boldest, run)


def _work(layer: Layer, lowering: Lowering, rows: Sequence[int]) -> list[float]:
    return [LOWERINGS[lowering].cost(layer, n) for n in rows]


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
    zero = round(100 * layer.survivors.zero_blocks / shape.blocks)
    m2, n2 = shape.block
    text = f"{shape.m}x{shape.n} in {m2}x{n2}, {zero}% zero, {linear.stored.dtype}, {linear.node.op_type}"
    text += "" if linear.scales is None else f" by {linear.scales.label} of {linear.dtype}"
    origin = layer.origin
    factored = f", rank {origin.factors.rank} {origin.evaluation}" if origin and origin.factors else ""
    return f"{text}, {linear.rank} axes{factored}"


def _timed(layer: Layer, lowering: Lowering, rows: int, measured: list[Timing]) -> float:
    label = fingerprint(layer)
    seconds = Timings(tuple(measured)).seconds(label, lowering, rows)
    if seconds is None:
        seconds = _measure(*alone(layer, lowering, rows))
        if seconds < math.inf:
            measured.append(Timing(label, lowering, rows, seconds))
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
