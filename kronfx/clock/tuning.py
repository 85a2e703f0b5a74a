"""``kronfx.tune``: the evaluation of every layer, by the clock where the prediction is close."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kronfx.clock.cache import rates_here
from kronfx.clock.calibration import seconds_of
from kronfx.cost import step
from kronfx.errors import TuneError, reason
from kronfx.layers import KroneckerConv, KroneckerLinear, evaluating, kronecker_layers, require_module
from kronfx.progress import bar
from kronfx.records import ATTOSECONDS, EVALUATIONS, Evaluation
from kronfx.tables import Column, Part, Row, Shown, Table

CLOSE = 1.15  # what is predicted to take up to so much longer than the best is timed
RUNS = 7
SECONDS = 1.0  # of timing a layer after which three runs must do

COLUMNS = (
    Column("layer"),
    Column("rows", 7),
    Column("was", 8),
    Column("chosen"),
    *(
        Column(f"{e} {by}", goes, "sum")
        for e, pair in zip(EVALUATIONS, ((3, 6), (2, 5), (1, 4)))
        for by, goes in zip(("ms", "timed"), pair)
    ),
)

Seconds = dict[Evaluation, float]


@dataclass(frozen=True, slots=True)
class TunedLayer:
    """What became of one layer: the ``rows`` it sees, the evaluation it had and the one ``chosen``, and the seconds
    of a step, forward and backward, of each: ``predicted``, and ``measured`` of those that were close, else None.
    """

    layer: str
    rows: int
    was: Evaluation
    chosen: Evaluation
    predicted: tuple[float, ...]
    measured: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Tuning(Shown):
    """What ``kronfx.tune`` did, layer by layer; print it. Times are in the order of ``kronfx.records.EVALUATIONS``."""

    layers: tuple[TunedLayer, ...]

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer."""
        changed = sum(layer.was != layer.chosen for layer in self.layers)
        rows = tuple(map(_cells, self.layers))
        return [Table(f"tuned: {len(rows)} layers, {changed} changed", COLUMNS, rows)]


def _cells(tuned: TunedLayer) -> Row:
    pairs = zip(tuned.predicted, tuned.measured)
    times = (None if seconds is None else 1e3 * seconds for pair in pairs for seconds in pair)
    return (tuned.layer, tuned.rows, tuned.was, tuned.chosen, *times)


def tune(model: nn.Module, example_inputs: Any) -> Tuning:
    """Give every factored layer the evaluation that makes its training step the shortest on this machine.

    ``example_inputs`` (a tensor, a tuple of tensors or a dict of keyword tensors) go through the model once, without
    gradients and in evaluation mode, which shows how many rows each layer sees. Evaluations that are predicted to be
    within 15% of the best are timed by turns, forward and backward; layers alike share the timing. What the layers
    compute stays the same but for rounding. The model is changed in place: tune before the optimizer is made, since
    ``kronfx.train`` asks a layer which factor it applies last. A layer that no input reaches stays as it is.

    Raises TuneError.
    """
    require_module(model, TuneError)
    layers = kronecker_layers(model)
    shapes = _shapes_seen(model, layers, example_inputs)
    known: dict[object, tuple[Seconds, Seconds]] = {}
    tuned = []
    with bar("tuning", len(shapes)) as begin:
        for name, shape in shapes.items():
            begin(name)
            layer = layers[name]
            key = (repr(layer), layer.S.dtype, shape)
            if key not in known:
                known[key] = _times(layer, shape)
            tuned.append(_settled(name, layer, shape, *known[key]))
    return Tuning(tuple(tuned))


def _shapes_seen(model: nn.Module, layers: dict[str, KroneckerLinear], example_inputs: Any) -> dict[str, torch.Size]:
    """The shape of the largest input that each layer got."""
    seen: dict[str, torch.Size] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if isinstance(args[0], Tensor) and not args[0].is_nested and args[0].numel():
                seen[name] = max(seen.get(name, args[0].shape), args[0].shape, key=lambda shape: shape.numel())

        return hook

    handles = [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
    try:
        with _only_looking(model):
            args, kwargs = _call(example_inputs)
            model(*args, **kwargs)
    except Exception as error:
        found = f"the model does not run on example_inputs ({reason(error)})"
        raise TuneError("", found, "inputs as its forward takes them", "pass a tensor, a tuple or a dict") from error
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name in layers if name in seen}


@contextmanager
def _only_looking(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no random number used up; all as before afterwards."""
    with torch.no_grad(), torch.random.fork_rng(), evaluating(model):
        yield


def _call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, dict):
        return (), example_inputs
    return (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)), {}


def _settled(name: str, layer: KroneckerLinear, shape: torch.Size, predicted: Seconds, measured: Seconds) -> TunedLayer:
    was = layer.evaluation
    layer.evaluation = min(measured or predicted, key=lambda e: (measured or predicted)[e])
    layer.predicted_seconds, layer.measured_seconds = predicted[layer.evaluation], measured.get(layer.evaluation)
    return TunedLayer(
        layer=name,
        rows=_rows(layer, shape),
        was=was,
        chosen=layer.evaluation,
        predicted=tuple(predicted[e] for e in EVALUATIONS),
        measured=tuple(measured.get(e) for e in EVALUATIONS),
    )


def _rows(layer: KroneckerLinear, shape: torch.Size) -> int:
    """Rows of ``x``; of a convolution with a stride of 1, positions."""
    maps = layer.blocks // layer.grid.blocks
    return max(1, shape.numel() * math.prod(_kernel(layer)) // (layer.in_features * maps))


def _kernel(layer: KroneckerLinear) -> tuple[int, ...]:
    return layer.convolution.kernel if isinstance(layer, KroneckerConv) else ()


def _times(layer: KroneckerLinear, shape: torch.Size) -> tuple[Seconds, Seconds]:
    """Predicted of all evaluations, measured of those that are close: by turns, the median."""
    rates, rows = rates_here(), _rows(layer, shape)
    maps, taps = layer.blocks // layer.grid.blocks, math.prod(_kernel(layer))
    predicted = {
        evaluation: maps * step(layer.grid, layer.rank, rows, evaluation, taps).time(rates) / ATTOSECONDS
        for evaluation in EVALUATIONS
    }
    least = min(predicted.values())
    close = [evaluation for evaluation in EVALUATIONS if predicted[evaluation] <= CLOSE * least]
    return predicted, _measured(layer, shape, close) if len(close) > 1 else {}


def _measured(layer: KroneckerLinear, shape: torch.Size, evaluations: list[Evaluation]) -> Seconds:
    x = torch.ones(shape, dtype=layer.S.dtype, device=layer.S.device, requires_grad=True)
    runs: dict[Evaluation, list[float]] = {evaluation: [] for evaluation in evaluations}
    was, start = layer.evaluation, time.perf_counter()
    try:
        for turn in range(1 + RUNS):
            for evaluation in evaluations:
                layer.evaluation = evaluation
                runs[evaluation].append(seconds_of(layer, x))
            if turn >= 3 and time.perf_counter() - start > SECONDS:
                break
    finally:
        layer.evaluation = was
    return {evaluation: statistics.median(seconds[1:]) for evaluation, seconds in runs.items()}
