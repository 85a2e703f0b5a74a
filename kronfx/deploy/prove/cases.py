"""Inputs to run a file with: made from an example of the user's, or from what the graph says of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, array_of
from kronfx.deploy.prove.inputs import Inputs
from kronfx.errors import ExportError

LENGTHS = (24, 9)  # of every other free axis (sequences), by turns


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs by position, and the batch size they have, None where it is fixed."""

    feeds: tuple[Array, ...]
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


def cases_of_graph(graph: ir.Graph, batch_sizes: Sequence[int], example: Mapping[str, Any] | None) -> list[Case]:
    """Random inputs of the graph's types at every batch size and two lengths of every other free axis.

    Dim 0 of the first input, if it is free, is the batch. Numbers are normal, integers 0 and 1 (ids that every
    vocabulary has), masks all ones. With an ``example`` (arrays by input name), that is the only case. Raises
    ExportError.
    """
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    if example is not None and not isinstance(example, Mapping):
        found = f"example_inputs of type {type(example).__name__}"
        raise ExportError("", found, "arrays by input name", "pass example_inputs={name: array, ...}")
    if example is not None:
        return [Case(tuple(_given(value, example) for value in inputs), None)]
    first = inputs[0].shape if inputs else None
    batch = first[0] if first is not None and len(first) and not isinstance(first[0], int) else None
    sizes: Sequence[int | None] = batch_sizes if batch is not None else (None,)
    rng = np.random.default_rng(0)
    return [
        Case(tuple(_random(value, batch, size, LENGTHS[i % 2], rng) for value in inputs), size)
        for i, size in enumerate(sizes)
    ]


def _given(value: ir.Value, example: Mapping[str, Any]) -> Array:
    if value.name is None or value.name not in example:
        names = ", ".join(map(str, example)) or "none"
        raise ExportError(
            "", f"an example with inputs {names}", f"the input {value.name}", "give an array for each input"
        )
    kind = value.dtype.numpy() if value.dtype is not None else None
    try:
        return np.asarray(example[value.name], dtype=kind)
    except (TypeError, ValueError) as error:
        found = f"an example {value.name} of type {type(example[value.name]).__name__} ({error})"
        raise ExportError("", found, f"an array of {value.dtype}", "give an array for each input") from None


def _random(value: ir.Value, batch: object, size: int | None, length: int, rng: np.random.Generator) -> Array:
    if value.shape is None or value.dtype is None:
        found = f"an input {value.name} of unknown type or rank"
        raise ExportError("", found, "inputs that the graph describes", "pass example_inputs={name: array, ...}")
    same = [not isinstance(dim, int) and batch is not None and dim == batch for dim in value.shape]
    dims = [
        size if is_batch and size is not None else dim if isinstance(dim, int) else length
        for dim, is_batch in zip(value.shape, same, strict=True)
    ]
    kind = value.dtype.numpy()
    if value.dtype.is_floating_point():
        return rng.standard_normal(dims).astype(kind)
    if "mask" in (value.name or "").lower():
        return np.ones(dims, kind)
    return rng.integers(0, 2, dims).astype(kind)
