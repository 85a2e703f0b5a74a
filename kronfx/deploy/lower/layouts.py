"""Layouts: a value row-major, as the graph has it, or feature-major, as sparse products want it.

``x [..., S, C]`` is feature-major when its last two axes are swapped: ``[..., C, S]``. A product with the weight on the
left reads whole rows of ``S`` neighbouring entries that way, and neither gathers nor products need a transpose. A value
can live in one layout or in both. Conversions are made where somebody asks, once, so q, k and v share the transpose
of their input and none lies between two feature-major layers with element-wise operators between them.

What that gains, and why the batch stays apart (``[B, C, S]``): ``kronfx/decisions/feature_major.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import Array, shape_of

ZERO = -1  # in an order: a row of blocks that is zero and stands for all that are not listed
FOREIGN = -2  # in an order: a row of blocks of another map


@dataclass(frozen=True, slots=True)
class Feature:
    """A value feature-major: ``value [..., C, S]``, or, with an ``order``, ``[..., len(order), m2, S]``.

    ``order[t]`` says which block row of the natural ``C = m1 m2`` lies at position ``t``, ``height`` is ``m2``.
    ``rank`` is that of the row-major value.
    """

    value: ir.Value
    rank: int
    channels: int
    order: tuple[int, ...] | None = None
    height: int = 0

    @property
    def prefix(self) -> tuple[int, ...]:
        """The leading axes in the shape of a Reshape: as they are."""
        return (0,) * (self.rank - 2)

    @property
    def complete(self) -> bool:
        """True where every row of blocks is there, and no other."""
        return self.order is None or min(self.order) >= 0

    def positions(self, rows: Sequence[int]) -> Array:
        """Where these block rows lie."""
        if self.order is None:
            return np.array(rows, np.int64)
        places = {row: place for place, row in enumerate(self.order)}
        return np.array([places[row] if row in places else places[ZERO] for row in rows], np.int64)


class Layouts:
    """Which values of a graph exist feature-major, row-major or both, while the graph is rewritten front to back.

    ``make_...``, ``define``, ``replace`` and ``skip`` change what is known, and the graph where they have to; the
    others only look.
    """

    def __init__(self, build: Builder) -> None:
        self.build = build
        self._features: dict[ir.Value, Feature] = {}
        self._lazy: set[ir.Value] = set()
        self._now: dict[ir.Value, ir.Value] = {}
        self.skipped: set[ir.Node] = set()

    def define(self, value: ir.Value, feature: Feature) -> None:
        """From now on ``value`` is computed feature-major; row-major only if somebody asks."""
        self._features[value] = feature
        self._lazy.add(value)

    def replace(self, value: ir.Value, other: ir.Value) -> None:
        """From now on ``value`` is ``other``, which holds the same."""
        is_output = value.is_graph_output()
        if is_output:  # it keeps its name, whatever else the other value is called and used for
            other = self.build.op("Identity", other)
        other.shape, other.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, other, replace_graph_outputs=True)
        if is_output:
            other.name, value.name = value.name, None
        self._now[value] = other

    def current(self, value: ir.Value) -> ir.Value:
        """What ``value`` has become."""
        return self._now.get(value, value)

    def skip(self, *nodes: ir.Node) -> None:
        """Their outputs are computed another way."""
        self.skipped.update(nodes)

    def is_lazy(self, value: ir.Value | None) -> bool:
        """True where ``value`` exists feature-major only."""
        return value in self._lazy

    def has_feature(self, value: ir.Value | None) -> bool:
        """True where ``value`` exists feature-major."""
        return value in self._features

    def make_feature_major(self, value: ir.Value, channels: int = 0) -> Feature:
        """``value [..., S, channels]`` feature-major; ``channels`` may be left out where the shape tells them."""
        value = self.current(value)
        if value not in self._features:
            self._features[value] = (
                self._merged_heads(value) or self._quantized(value) or self._transposed(value, channels)
            )
        return self._features[value]

    def make_ordered(self, feature: Feature, name: str = "") -> Feature:
        """``[..., C, S]`` with its rows in their natural order; ``name`` says whose they are, if not the value's."""
        if feature.order is None:
            return Feature(feature.value, feature.rank, feature.channels)
        positions = feature.positions(range(feature.channels // feature.height))
        name = f"{name or feature.value.name}/order"
        sorted_rows = self.build.op(
            "Gather", feature.value, self.build.indices(name, positions, 400 * len(positions)), axis=feature.rank - 2
        )
        y = self.build.op("Reshape", sorted_rows, self.build.integers(*feature.prefix, feature.channels, -1))
        return Feature(y, feature.rank, feature.channels)

    def make_row_major(self, value: ir.Value) -> ir.Value:
        """``value`` row-major, for everybody who still uses it."""
        value = self.current(value)
        if value not in self._lazy:
            return value
        feature = self.make_ordered(self._features[value])
        row_major = self._swapped(feature.value, feature.rank)
        row_major.shape, row_major.type = value.shape, value.type
        ir.convenience.replace_all_uses_with(value, row_major, replace_graph_outputs=True)
        row_major.name, value.name = value.name, None
        self._lazy.discard(value)
        self._now[value] = row_major
        self._features[value] = self._features[row_major] = feature
        return row_major

    def _transposed(self, value: ir.Value, channels: int) -> Feature:
        shape = shape_of(value)
        last, rank = shape[-1], len(shape)
        return Feature(self._swapped(value, rank), rank, last if isinstance(last, int) else channels)

    def _swapped(self, value: ir.Value, rank: int) -> ir.Value:
        return self.build.op("Transpose", value, perm=[*range(rank - 2), rank - 1, rank - 2])

    def _quantized(self, value: ir.Value) -> Feature | None:
        """8-bit numbers are quantized from what is feature-major already, or will be: their range is the same."""
        node = value.producer()
        if node is None or node.op_type != "DynamicQuantizeLinear" or node.inputs[0] is None:
            return None
        source = self.make_feature_major(node.inputs[0])
        again = self.build.node(ir.node("DynamicQuantizeLinear", [source.value], num_outputs=3))
        for copied, output in zip(again.outputs[1:], node.outputs[1:], strict=True):
            self.replace(output, copied)
        return replace(source, value=again.outputs[0])

    def _merged_heads(self, value: ir.Value) -> Feature | None:
        """``[B, S, H D]`` that was merged from ``[B, H, S, D]``: one transpose instead of two."""
        merge = value.producer()
        swap = (
            merge.inputs[0].producer() if merge is not None and merge.op_type == "Reshape" and merge.inputs[0] else None
        )
        if swap is None or swap.op_type != "Transpose" or tuple(swap.attributes["perm"].as_ints()) != (0, 2, 1, 3):
            return None
        heads = swap.inputs[0]
        if heads is None or heads.shape is None or value.shape is None or len(value.shape) != 3:
            return None
        batch, count, length, width = heads.shape
        if not isinstance(count, int) or not isinstance(width, int) or value.shape != (batch, length, count * width):
            return None
        split = self.make_ordered(self.make_feature_major(heads)).value
        merged = self.build.op("Reshape", split, self.build.integers(0, count * width, -1))
        return Feature(merged, 3, count * width)
