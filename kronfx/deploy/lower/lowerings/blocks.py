"""``blocks``: gather what the surviving blocks read, then one batched product a bucket, weights on the left.

For the block rows ``p`` of a bucket, all with ``K`` surviving blocks in columns ``c(p, 1) .. c(p, K)``:

    y[p] [m2, S] = W[p] [m2, K n2] @ concat(x[c(p, 1)], ..., x[c(p, K)]) [K n2, S]

``x [..., n1, n2, S]`` feature-major. Block columns that no row reads are never touched; block rows without a block are
not computed: they share one row of zeros (which nodes make where it would count in the file), or, where they are few,
get zero weights, which spares the next layer sorting.

Layers that read the same ``x`` (q, k and v; gate and up) are stacked into one: rows of all of them share the buckets,
and a Gather a layer takes its rows out again, which sorts them on the way. 8-bit products (``MatMulInteger``) gather
the 8-bit activations, and their weights are stored unsigned. Why: ``kronfx/decisions/buckets.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.layouts import FOREIGN, ZERO, Feature, Layouts
from kronfx.deploy.lower.lowerings import price
from kronfx.deploy.lower.lowerings.axes import no_axes
from kronfx.deploy.lower.lowerings.buckets import Bucket, pack
from kronfx.deploy.nodes.values import Array
from kronfx.records import KroneckerShape

FEW = 1 / 64  # of the surviving blocks: at most so many zeros are stored to compute zero rows like the others


def refusal(layer: Layer) -> str | None:
    """Where no block is zero or one reaches beyond ``W``, or the axes of ``x`` are unknown, or the product is 8-bit and
    its weights less their zero points are not.

    Statically quantized products run dense: onnxruntime moves transposes through a DequantizeLinear with a constant
    scale and puts a QuantizeLinear behind it that has the wrong type, so that sums came out clipped.
    """
    if layer.survivors.zero_blocks == 0:
        return _no_zero(layer)
    if layer.is_padded:
        return "its last blocks reach beyond the weight"
    if layer.linear.static:
        return "it was quantized beforehand, and onnxruntime clips the sums of such blocks"
    if layer.linear.zero_points is not None and layer.linear.shift is None:
        return "its 8-bit weights less their zero point need more than 8 bits"
    return no_axes(layer)


def _no_zero(layer: Layer) -> str:
    if layer.asked is not None and layer.asked != layer.shape.block:
        m, n = layer.survivors.dims
        return f"blocks of {layer.asked[0]}x{layer.asked[1]} do not divide {m}x{n}"
    return "no block of its weight is zero"


def stored(layer: Layer) -> int:
    """Bytes: the blocks of all buckets and the columns they read, where the layer is not stacked with others."""
    buckets = _buckets([layer])
    entries = sum(bucket.weights[_unstored(bucket, buckets) :].size for bucket in buckets)
    return entries * layer.itemsize + 4 * sum(bucket.columns.size for bucket in buckets)


def cost(layer: Layer, rows: int) -> float:
    """Multiply-adds of the buckets, what they gather and sort, the layouts, three nodes a bucket and six more."""
    buckets = _buckets([layer])
    weights = sum(bucket.weights.size for bucket in buckets)
    gathered = sum(bucket.columns.size for bucket in buckets) * layer.shape.n2
    moved = price.ENTRY * (gathered + 2 * layer.shape.m) + price.TRANSPOSED * (layer.shape.m + layer.shape.n)
    return weights * (price.SMALL * rows + price.WEIGHT) + rows * moved + (3 * len(buckets) + 6) * price.NODE


def emit(layouts: Layouts, layers: Sequence[Layer], x: Feature) -> list[Feature]:
    """``W x`` of each layer: the only one's block rows stay in the order of the buckets, several get theirs sorted."""
    build, shape = layouts.build, layers[0].shape
    if x.order is not None and x.height != shape.n2:
        x = layouts.make_ordered(x)
    blocks = x.value if x.order else build.op("Reshape", x.value, build.integers(*x.prefix, shape.n1, shape.n2, -1))
    buckets, name = _buckets(layers), layers[0].name
    outputs = [
        _product(layouts, layers[0], f"{name}/{i}", bucket, _unstored(bucket, buckets), blocks, x)
        for i, bucket in enumerate(buckets)
    ]
    y = outputs[0] if len(outputs) == 1 else build.op("Concat", *outputs, axis=x.rank - 2)
    order = tuple(row for bucket in buckets for row in bucket.rows)
    if len(layers) > 1:
        parts = _parts(Feature(y, x.rank, 0, order, shape.m2), layers)
        return [layouts.make_ordered(part, layer.name) for layer, part in zip(layers, parts, strict=True)]
    if order == tuple(range(shape.m1)):
        return [Feature(build.op("Reshape", y, build.integers(*x.prefix, shape.m, -1)), x.rank, shape.m)]
    return [Feature(y, x.rank, shape.m, order, shape.m2)]


def _parts(stack: Feature, layers: Sequence[Layer]) -> Iterator[Feature]:
    """Each layer's own rows among those of all."""
    start = 0
    for layer in layers:
        m1 = layer.shape.m1
        own = {start + row: row for row in range(m1)} | {ZERO: ZERO}
        yield replace(stack, channels=layer.shape.m, order=tuple(own.get(row, FOREIGN) for row in stack.order or ()))
        start += m1


def _buckets(layers: Sequence[Layer]) -> list[Bucket]:
    """Those of all layers below each other, whose blocks have one size."""
    W = np.concatenate([layer.linear.W for layer in layers])
    mask = np.concatenate([layer.survivors.mask for layer in layers])
    first = layers[0].shape
    shape = KroneckerShape(len(mask), first.n1, first.m2, first.n2)
    return with_zero_rows(pack(W, mask, shape), mask, W, shape)


def with_zero_rows(buckets: list[Bucket], mask: Array, W: Array, shape: KroneckerShape) -> list[Bucket]:
    """Rows without a block join the bucket of the shortest rows: all if they are few, else one for all."""
    empty = [int(row) for row in np.flatnonzero(~mask.any(axis=1))]
    if not empty:
        return buckets
    if not buckets:
        zeros = np.zeros((1, shape.m2, shape.n2), W.dtype)
        return [Bucket((ZERO,), np.zeros((1, 1), np.int64), zeros)]
    first = buckets[0]
    added = len(empty) * first.columns.shape[1]
    rows = tuple(empty) if added <= FEW * mask.sum() else (ZERO,)
    columns = np.repeat(first.columns[:1], len(rows), axis=0)
    zeros = np.zeros((len(rows), *first.weights.shape[1:]), W.dtype)
    joined = Bucket(
        (*rows, *first.rows), np.concatenate([columns, first.columns]), np.concatenate([zeros, first.weights])
    )
    return [joined, *buckets[1:]]


def _unstored(bucket: Bucket, buckets: Sequence[Bucket]) -> int:
    """How many of a bucket's first rows nodes make: that of zeros, where it would count beside all other weights."""
    is_large = bucket.weights[0].size > FEW * sum(other.weights.size for other in buckets)
    return int(bucket.rows[0] == ZERO and is_large)


def _product(
    layouts: Layouts, layer: Layer, name: str, bucket: Bucket, skip: int, blocks: ir.Value, x: Feature
) -> ir.Value:
    build = layouts.build
    count, _, depth = bucket.weights.shape
    positions = x.positions(bucket.columns.ravel().tolist())
    # Where x is not in its natural order, positions are not the columns: maps that share a weight may differ in them.
    tag = f"{name}/columns" if x.order is None else f"{name}/columns/{abs(hash(x.order)):x}"
    read = build.op("Gather", blocks, build.indices(tag, positions, bucket.weights.nbytes), axis=x.rank - 2)
    tall = build.op("Reshape", read, build.integers(*x.prefix, count, depth, -1))
    if layer.linear.zero_points is None:
        return build.op("MatMul", _weights(layouts, name, bucket.weights, skip, 0), tall)
    shift = layer.linear.shift or 0
    middle = build.constant("kronfx/middle", np.array(shift, np.uint8))
    unsigned = _weights(layouts, name, (bucket.weights.astype(np.int16) + shift).astype(np.uint8), skip, shift)
    zero_point = layer.linear.zero_points[0]
    return build.op("MatMulInteger", unsigned, tall, middle, zero_point and layouts.current(zero_point))


def _weights(layouts: Layouts, name: str, weights: Array, skip: int, zero: int) -> ir.Value:
    """A bucket's weights ``[R, m2, K n2]``, whose first ``skip`` rows are all ``zero``."""
    build = layouts.build
    if not skip:
        return build.constant(f"{name}/blocks", weights)
    filler = build.constant(f"k/{zero}/{weights.dtype}", np.full_like(weights, zero, shape=(1, 1)))
    zeros = build.op("Expand", filler, build.integers(skip, *weights.shape[1:]))
    if skip == len(weights):
        return zeros
    return build.op("Concat", zeros, build.constant(f"{name}/blocks", weights[skip:]), axis=0)
