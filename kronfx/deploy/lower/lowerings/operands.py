"""The weights of buckets as operands of products: floating, 8-bit, of few bits in the file, or made of what else it
keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.layers import Layer
from kronfx.deploy.find.linear import Linear
from kronfx.deploy.lower.layouts import ZERO
from kronfx.deploy.lower.lowerings.buckets import Bucket, pack
from kronfx.deploy.lower.lowerings.scaled import scaled
from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import Array
from kronfx.records import KroneckerShape

FEW = 1 / 64  # of the surviving blocks: at most so many zeros are stored to compute zero rows like the others


def buckets_of(layers: Sequence[Layer]) -> list[Bucket]:
    """Those of all layers below each other, whose blocks have one size."""
    return _packed(layers, [layer.linear.W for layer in layers])


def operands(build: Builder, layers: Sequence[Layer], buckets: Sequence[Bucket]) -> Iterator[ir.Value]:
    """``[R, m2, K n2]`` of each bucket of the layers."""
    first = layers[0]
    is_scaled = first.linear.scales is not None
    whole = _packed(layers, [layer.linear.integers for layer in layers]) if is_scaled else buckets
    for i, (bucket, integers) in enumerate(zip(buckets, whole, strict=True)):
        name, skip = f"{first.name}/{i}", unstored(bucket, buckets)
        if first.shared is not None:
            yield first.shared.rows(build, bucket.rows, bucket.columns.shape[1])
            continue
        kept = _kept(first.linear, bucket.weights)
        parts = [_zeros(build, kept, skip, first.linear)] if skip else []
        if skip < len(kept) and is_scaled:
            parts.append(scaled(build, name, layers, integers.weights, bucket, skip))
        elif skip < len(kept):
            parts.append(build.constant(f"{name}/blocks", kept[skip:]))
        yield parts[0] if len(parts) == 1 else build.op("Concat", *parts, axis=0)


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


def unstored(bucket: Bucket, buckets: Sequence[Bucket]) -> int:
    """How many of a bucket's first rows nodes make: that of zeros, where it would count beside all other weights."""
    is_large = bucket.weights[0].size > FEW * sum(other.weights.size for other in buckets)
    return int(bucket.rows[0] == ZERO and is_large)


def _packed(layers: Sequence[Layer], weights: Sequence[Array]) -> list[Bucket]:
    """The buckets of these ``weights``, which are zero where the layers' blocks are."""
    W = np.concatenate(weights)
    mask = np.concatenate([layer.survivors.mask for layer in layers])
    first = layers[0].shape
    shape = KroneckerShape(len(mask), first.n1, first.m2, first.n2)
    return with_zero_rows(pack(W, mask, shape), mask, W, shape)


def _kept(linear: Linear, weights: Array) -> Array:
    """As the file keeps them: 8-bit ones of a type that its products take."""
    if linear.zero_points is None:
        return weights
    return (weights.astype(np.int16) + (linear.shift or 0)).astype(linear.kind)


def _zeros(build: Builder, kept: Array, skip: int, linear: Linear) -> ir.Value:
    zero = linear.shift or 0 if linear.zero_points is not None else 0
    filler = build.constant(f"k/{zero}/{kept.dtype}", np.full_like(kept, zero, shape=(1, 1)))
    return build.op("Expand", filler, build.integers(skip, *kept.shape[1:]))
