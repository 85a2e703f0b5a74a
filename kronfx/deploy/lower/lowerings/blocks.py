"""``blocks``: gather what the surviving blocks read, then one batched product a bucket, weights on the left.

For the block rows ``p`` of a bucket, all with ``K`` surviving blocks in columns ``c(p, 1) .. c(p, K)``:

    y[p] [m2, S] = W[p] [m2, K n2] @ concat(x[c(p, 1)], ..., x[c(p, K)]) [K n2, S]

``x [..., n1, n2, S]`` feature-major. Block columns that no row reads are never touched; block rows without a block are
not computed: they share one row of zeros (which nodes make where it would count in the file), or, where they are few,
get zero weights, which spares the next layer sorting.

Layers that read the same ``x`` (q, k and v; gate and up) are stacked into one: rows of all of them share the buckets,
and a Gather a layer takes its rows out again, which sorts them on the way. A layer whose blocks are shared with other
readers of its weight stays alone. 8-bit products (``MatMulInteger``, ``QLinearMatMul``) gather the 8-bit activations,
and their weights are stored unsigned; other weights of few bits are stored so, and multiply as floating numbers. Why:
``kronfx/decisions/buckets.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from kronfx import price
from kronfx.deploy.find.layers import Layer
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.lower.layouts import FOREIGN, ZERO, Feature, Layouts
from kronfx.deploy.lower.lowerings.axes import no_axes
from kronfx.deploy.lower.lowerings.buckets import Bucket
from kronfx.deploy.lower.lowerings.operands import buckets_of, operands, unstored


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
    buckets = buckets_of([layer])
    entries = sum(bucket.weights[unstored(bucket, buckets) :].size for bucket in buckets)
    return round(entries * layer.itemsize) + 4 * sum(bucket.columns.size for bucket in buckets)


def cost(layer: Layer, rows: int) -> float:
    """What its own buckets multiply and gather."""
    buckets = buckets_of([layer])
    weights = sum(bucket.weights.size for bucket in buckets)
    gathered = sum(bucket.columns.size for bucket in buckets) * layer.shape.n2
    return price.blocks(layer.shape, rows, weights, gathered, len(buckets))


def emit(layouts: Layouts, layers: Sequence[Layer], x: Feature) -> list[Feature]:
    """``W x`` of each layer: the only one's block rows stay in the order of the buckets, several get theirs sorted."""
    build, shape = layouts.build, layers[0].shape
    if x.order is not None and x.height != shape.n2:
        x = layouts.make_ordered(x)
    blocks = x.value if x.order else build.op("Reshape", x.value, build.integers(*x.prefix, shape.n1, shape.n2, -1))
    buckets, name = buckets_of(layers), layers[0].name
    outputs = [
        _product(layouts, layers[0].linear, weights, _gathered(layouts, f"{name}/{i}", bucket, blocks, x))
        for i, (bucket, weights) in enumerate(zip(buckets, operands(build, layers, buckets), strict=True))
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


def _gathered(layouts: Layouts, name: str, bucket: Bucket, blocks: ir.Value, x: Feature) -> ir.Value:
    """What the rows of a bucket read of ``x``: ``[..., R, K n2, S]``."""
    build = layouts.build
    count, _, depth = bucket.weights.shape
    positions = x.positions(bucket.columns.ravel().tolist())
    # Where x is not in its natural order, positions are not the columns: maps that share a weight may differ in them.
    tag = f"{name}/columns" if x.order is None else f"{name}/columns/{abs(hash(x.order)):x}"
    read = build.op("Gather", blocks, build.indices(tag, positions, bucket.weights.nbytes), axis=x.rank - 2)
    return build.op("Reshape", read, build.integers(*x.prefix, count, depth, -1))


def _product(layouts: Layouts, linear: Linear, weights: ir.Value, tall: ir.Value) -> ir.Value:
    build = layouts.build
    if linear.zero_points is None:
        return build.op("MatMul", weights, tall)
    middle = build.constant("kronfx/middle", np.array(linear.shift or 0, linear.kind))
    zero_point = linear.zero_points[0]
    x_zero = zero_point and layouts.current(zero_point)
    if linear.requantized is None:
        return build.op("MatMulInteger", weights, tall, middle, x_zero)
    x_scale, scale, y_scale, y_zero = linear.requantized
    return build.op("QLinearMatMul", weights, scale, middle, tall, x_scale, x_zero, y_scale, y_zero)
