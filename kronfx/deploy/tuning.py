"""Which lowering each layer gets: the one asked for, the smallest, the fastest by the clock, or by a cost model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import onnx_ir as ir
import onnxruntime

from kronfx.deploy.cases import checked_counts
from kronfx.deploy.layers import Found, Layer
from kronfx.deploy.linear import find
from kronfx.deploy.lowerings import LOWERINGS, candidates
from kronfx.deploy.lowerings.price import NODE
from kronfx.deploy.rewrite import rewrite
from kronfx.deploy.timings import Timing, Timings, timings_of
from kronfx.errors import ExportError
from kronfx.records import Lowering

Goal = Literal["latency", "size"]
TIE = 0.97  # a lowering must take less than this share of the dense time to replace it
_NOISE = 5e-6  # seconds that two runs of the same graph differ by
_LEAST_SECONDS, _LEAST_RUNS, _MOST_RUNS = 0.03, 5, 200


@dataclass(frozen=True, slots=True)
class Tuning:
    """How lowerings are chosen; see :func:`kronfx.sparsify_onnx`."""

    lowering: Literal["auto"] | Lowering = "auto"
    tune: bool = True
    rows: tuple[int, ...] = (1, 128)
    optimize_for: Goal = "latency"
    timings: Timings | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """The lowering of every layer's node, and what was timed to find it."""

    lowerings: dict[ir.Node, Lowering]
    timings: Timings

    @property
    def is_dense(self) -> bool:
        """True where nothing but dense products is left."""
        return all(lowering == "dense" for lowering in self.lowerings.values())


def checked(lowering: object, tune: bool, rows: Sequence[int], optimize_for: object, timings: Any) -> Tuning:
    """The options as a value. Raises ExportError where one is not what it can be."""
    names = ("auto", *get_args(Lowering))
    if lowering not in names:
        listed = ", ".join(map(repr, names))
        raise ExportError("", f"lowering={lowering!r}", f"one of {listed}", "choose one of these")
    if optimize_for not in get_args(Goal):
        raise ExportError("", f"optimize_for={optimize_for!r}", "'latency' or 'size'", "choose one of these")
    counts = checked_counts("rows", (rows,) if isinstance(rows, int) else rows, "(1, 128)")
    return Tuning(lowering, bool(tune), counts, optimize_for, timings_of(timings))  # type: ignore[arg-type]


def choose(layers: Sequence[Layer], tuning: Tuning, step: Callable[[str], None]) -> Chosen:
    """A lowering for every layer; ``step`` hears what is being timed."""
    known = list((tuning.timings or Timings.here()).entries)
    picked: dict[ir.Node, Lowering] = {}
    for i, layer in enumerate(layers):
        options = candidates(layer)
        if tuning.lowering != "auto":
            best: Lowering = tuning.lowering if tuning.lowering in options else "dense"
        elif len(options) == 1:
            best = "dense"
        elif tuning.optimize_for == "size":
            best = min(options, key=lambda name: LOWERINGS[name].stored(layer))
        elif not tuning.tune:
            estimates = {name: [LOWERINGS[name].cost(layer, n) for n in tuning.rows] for name in options}
            best = _fastest(estimates, 2 * NODE)
        else:
            step(f"timing {layer.name} ({i + 1} of {len(layers)})")
            measured = {name: [_timed(layer, name, n, known) for n in tuning.rows] for name in options}
            best = _fastest(measured, _NOISE)
        picked[layer.linear.node] = best
    return Chosen(picked, replace(Timings.here(), entries=tuple(known)))


def _fastest(costs: dict[Lowering, list[float]], noise: float) -> Lowering:
    """The least geometric mean over the row counts, of those that lose to dense at none of them; dense on a tie.

    To lose is to take over 3% and ``noise`` longer.
    """
    dense = costs["dense"]
    if math.inf in dense:
        return "dense"  # nothing to compare with: onnxruntime has no kernel for this type

    def ratio(name: Lowering) -> float:
        ratios = [cost / base for cost, base in zip(costs[name], dense, strict=True)]
        loses = any(cost > base / TIE + noise for cost, base in zip(costs[name], dense, strict=True))
        return math.inf if loses else math.exp(sum(map(math.log, ratios)) / len(ratios))

    best = min((name for name in costs if name != "dense"), key=ratio)
    return best if ratio(best) < TIE else "dense"


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
        seconds = _measure(*_alone(layer, lowering, rows))
        if seconds < math.inf:
            known.append(Timing(label, lowering, rows, seconds))
    return seconds


def _alone(layer: Layer, lowering: Lowering, rows: int) -> tuple[ir.Model, np.ndarray[Any, Any]]:
    """A graph of nothing but this layer, lowered, and an input for it."""
    linear, n = layer.linear, layer.kept.dims[1]
    rank = max(linear.rank or 2, 2)
    sizes = {"Conv": (1, n, rows, *([1] * (rank - 3)))}.get(linear.node.op_type)
    dims = sizes or ((1,) * (rank - 2) + ((n, rows) if linear.channels_first else (rows, n)))
    if linear.around:
        dims = (rows, n)
    kind = ir.DataType.UINT8 if linear.zero_points is not None else _constant(linear.weight).dtype
    x = ir.Value(
        name="x", type=ir.TensorType(kind), shape=ir.Shape(f"d{i}" if d != n else d for i, d in enumerate(dims))
    )
    inputs: list[ir.Value | None] = []
    initializers: list[ir.Value] = []
    for value in linear.node.inputs:
        if value is linear.weight or value is linear.bias or (value is not None and value.const_value is not None):
            assert value is not None
            copy = ir.Value(name=f"c{len(initializers)}", const_value=value.const_value)
            initializers.append(copy)
            inputs.append(copy)
        elif value is None:
            inputs.append(None)
        elif x not in inputs:
            inputs.append(x)
        else:
            zero = ir.Value(name="zero_point", const_value=ir.tensor(np.array(128, np.uint8)))
            initializers.append(zero)
            inputs.append(zero)
    node = ir.Node(linear.node.domain, linear.node.op_type, inputs, linear.node.attributes.values())
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.INT32 if linear.zero_points is not None else kind)
    y.shape = ir.Shape([None] * len(dims))
    graph = ir.Graph([x], [y], nodes=[node], initializers=initializers, opset_imports={"": 20}, name="alone")
    model = ir.Model(graph, ir_version=10)
    (found,) = find(graph)
    rewrite(model, Found((replace(layer, linear=found),)), {node: lowering})
    shape = np.random.default_rng(0).random(dims)
    return model, (255 * shape).astype(np.uint8) if linear.zero_points is not None else shape.astype(_numpy(kind))


def _measure(model: ir.Model, x: np.ndarray[Any, Any]) -> float:
    """Median seconds of a run; infinite where onnxruntime cannot run it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        content = ir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        seconds = run_seconds(session, {"x": x})
    except Exception:  # onnxruntime has one class for every status code, and no common one
        return math.inf
    return seconds


def run_seconds(session: Any, feeds: dict[str, Any], least: float = _LEAST_SECONDS) -> float:
    """Median seconds of a run, warmed up, all in one go: threads of a session that waits disturb the others."""
    for _ in range(2):
        session.run(None, feeds)
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < _LEAST_RUNS or (time.perf_counter() - started < least and len(taken) < _MOST_RUNS):
        before = time.perf_counter()
        session.run(None, feeds)
        taken.append(time.perf_counter() - before)
    return float(np.median(taken))


def _constant(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # it is a layer's weight
    return value.const_value


def _numpy(kind: ir.DataType) -> Any:
    return kind.numpy()
