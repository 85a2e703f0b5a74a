"""Inputs to run a file with: made from an example of the user's, or from what the graph says of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, array_of
from kronfx.deploy.prove.inputs import Inputs
from kronfx.errors import ExportError

LENGTHS = (24, 9)  # of every other free axis (sequences), by turns
LARGEST = 2**26  # entries that are made up for one case, at most
_NAMED = "pass example_inputs={name: array, ...}"


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs by position, and the batch size they have, None where it is fixed."""

    feeds: tuple[Any, ...]
    batch: int | None

    @property
    def label(self) -> str:
        """How errors name it."""
        return f"at batch size {self.batch}" if self.batch is not None else "at the sizes of the graph"


def cases_of_example(graph: ir.Graph, inputs: Inputs, batch_sizes: Sequence[int]) -> list[tuple[Case, Inputs]]:
    """The example at every batch size; as it is where the graph's batch is fixed."""
    batched = [v for v, x in zip(graph.inputs, inputs.tensors, strict=False) if inputs.is_batched(x)]
    free = batched and not any(v.shape is not None and isinstance(v.shape[0], int) for v in batched)
    shown = [inputs.at_batch(size) for size in batch_sizes] if free else [inputs]
    return [(Case(tuple(map(array_of, case.tensors)), case.batch), case) for case in shown]


def cases_of_graph(
    graph: ir.Graph, batch_sizes: Sequence[int], example: Mapping[str, Any] | None, lengths: Sequence[int] = LENGTHS
) -> list[Case]:
    """Random inputs of the graph's types at every batch size, every other free axis as long as one of the ``lengths``,
    by turns.

    Dim 0 of the first input, if it is free, is the batch; so is every axis of that name, and dim 0 where axes have no
    names. Numbers are normal, integers 0 and 1 (ids that every vocabulary has), masks all ones, a sequence has two
    elements. With an ``example`` (arrays by input name; a list of arrays for a sequence, a dict for a map), that is
    the only case. Raises ExportError.
    """
    inputs = _inputs(graph)
    if example is not None and not isinstance(example, Mapping):
        found = f"example_inputs of type {type(example).__name__}"
        raise ExportError("", found, "arrays by input name", _NAMED)
    if example is not None:
        return [Case(tuple(_given(value, example) for value in inputs), None)]
    batch = _batch(inputs)
    sizes: Sequence[int | None] = batch_sizes if batch is not None else (None,)
    rng = np.random.default_rng(0)
    cases = []
    for i, size in enumerate(sizes):
        shapes = [_dims(value, batch, size, lengths[i % len(lengths)]) for value in inputs]
        if sum(map(math.prod, shapes)) <= LARGEST:
            cases.append(Case(tuple(_random(value, dims, rng) for value, dims in zip(inputs, shapes)), size))
    if not cases:
        found = f"inputs of more than {LARGEST:,} entries"
        raise ExportError("", found, "inputs that can be made up", _NAMED)
    return cases


def has_lengths(graph: ir.Graph) -> bool:
    """True where an axis besides the batch is free, as that of a sequence."""
    inputs = _inputs(graph)
    batch = _batch(inputs)
    axes = [(axis, dim) for value in inputs if value.shape is not None for axis, dim in enumerate(value.shape)]
    return any(not isinstance(dim, int) and not _is_batch(axis, dim, batch) for axis, dim in axes)


def _inputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if not value.is_initializer()]


def _batch(inputs: Sequence[ir.Value]) -> object:
    """Dim 0 of the first input where that is free, else None."""
    first = inputs[0].shape if inputs else None
    return first[0] if first is not None and len(first) and not isinstance(first[0], int) else None


def _is_batch(axis: int, dim: ir.SymbolicDim, batch: object) -> bool:
    return dim == batch if dim.value is not None else axis == 0


def _given(value: ir.Value, example: Mapping[str, Any]) -> Any:
    if value.name is None or value.name not in example:
        names = ", ".join(map(str, example)) or "none"
        raise ExportError(
            "", f"an example with inputs {names}", f"the input {value.name}", "give an array for each input"
        )
    given, kind = example[value.name], _numpy_kind(value)
    if isinstance(given, Mapping) or given is None:  # a map, or an optional that is not there
        return given
    try:
        if isinstance(value.type, ir.SequenceType) and isinstance(given, (list, tuple)):
            return [np.asarray(element, dtype=kind) for element in given]
        return np.asarray(given, dtype=kind)
    except (TypeError, ValueError) as error:
        found = f"an example {value.name} of type {type(given).__name__} ({error})"
        raise ExportError("", found, f"an array of {value.dtype}", "give an array for each input") from None


def _dims(value: ir.Value, batch: object, size: int | None, length: int) -> list[int]:
    """The shape that it gets."""
    if value.shape is None or _numpy_kind(value) is None:
        found = f"an input {value.name} of unknown type or rank"
        raise ExportError("", found, "inputs that the graph describes", _NAMED)

    def length_of(axis: int, dim: int | ir.SymbolicDim) -> int:
        if isinstance(dim, int):
            return dim
        return size if _is_batch(axis, dim, batch) and size is not None else length

    return [length_of(axis, dim) for axis, dim in enumerate(value.shape)]


def _random(value: ir.Value, dims: Sequence[int], rng: np.random.Generator) -> Any:
    if isinstance(value.type, ir.SequenceType):
        return [_array(value, dims, rng) for _ in range(2)]
    return _array(value, dims, rng)


def _array(value: ir.Value, dims: Sequence[int], rng: np.random.Generator) -> Array:
    kind = _numpy_kind(value)
    if value.dtype is not None and value.dtype.is_floating_point():
        return rng.standard_normal(dims).astype(kind)
    if "mask" in (value.name or "").lower():
        return np.ones(dims, kind)
    drawn = rng.integers(0, 2, dims)
    return drawn.astype(str).astype(object) if value.dtype == ir.DataType.STRING else drawn.astype(kind)


def _numpy_kind(value: ir.Value) -> np.dtype[Any] | None:
    """None where the graph does not tell."""
    if value.dtype is None or value.dtype == ir.DataType.UNDEFINED:
        return None
    return value.dtype.numpy()
