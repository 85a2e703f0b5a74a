"""Blocks of a weight of few bits: kept so in the file, and made floating numbers when it is loaded.

    W[p] = (Q - zero point)[p] * scale        in nodes: Cast, Mul, which runtimes fold

A ``DequantizeLinear`` they would leave for every run: ``kronfx/decisions/four_bits.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.lowerings.buckets import Bucket
from kronfx.deploy.nodes.builder import Builder
from kronfx.deploy.nodes.values import Array, tensor_of
from kronfx.records import KroneckerShape


def scaled(build: Builder, name: str, layers: Sequence[Layer], integers: Array, bucket: Bucket, skip: int) -> ir.Value:
    """``[R, m2, K n2]`` of a bucket of all layers below each other, without its first ``skip`` rows; ``integers`` are
    its blocks."""
    scales = _scales(layers, bucket)[skip:]
    kind = _kind(layers, integers)
    value = build.op("Cast", build.constant(f"{name}/blocks", integers[skip:].astype(kind)), to=ir.DataType.FLOAT)
    runs = scales.ndim == 4
    if runs:
        value = build.op("Reshape", value, build.integers(*integers[skip:].shape[:2], scales.shape[2], -1))
    value = build.op("Mul", value, build.constant(f"{name}/scales", scales.astype(np.float32)))
    if runs:
        value = build.op("Reshape", value, build.integers(*integers[skip:].shape))
    dtype = layers[0].linear.dtype
    return value if dtype == np.float32 else build.op("Cast", value, to=ir.DataType.from_numpy(dtype))


def _kind(layers: Sequence[Layer], integers: Array) -> np.dtype[np.generic]:
    """The narrowest type of the source's own kind that holds them all."""
    bits = max(tensor_of(layer.linear.weight).dtype.bitwidth for layer in layers)
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    kinds = [ir.DataType.INT4] * (bits == 4) + [ir.DataType.INT8, ir.DataType.INT16]
    return next(kind for kind in kinds if kind.min <= low and high <= kind.max).numpy()


def _scales(layers: Sequence[Layer], bucket: Bucket) -> Array:
    """``[R, 1 or m2, 1]``, or, where they change along a row, ``[R, 1 or m2, runs, 1]``."""
    each = [layer.linear.row_scales for layer in layers]
    width = max(scale.shape[1] for scale in each)
    stack = [np.broadcast_to(s, (layer.shape.m, width)) for s, layer in zip(each, layers, strict=True)]
    below, first, rows = np.concatenate(stack), layers[0].shape, np.array(bucket.rows)
    if width == 1:
        found: Array = below.reshape(-1, first.m2, 1)[rows]
    else:
        shape = KroneckerShape(len(below) // first.m2, first.n1, first.m2, first.n2)
        grid = below.reshape(shape.m1, shape.m2, shape.n1, shape.n2).transpose(0, 2, 1, 3)
        read = grid[rows[:, None], bucket.columns].transpose(0, 2, 1, 3)
        run = gcd(shape.n2, *(_run(layer) for layer in layers))
        found = read.reshape(len(rows), shape.m2, -1, run)[..., :1]
    return found[:, :1] if (found == found[:, :1]).all() else found


def _run(layer: Layer) -> int:
    """How many neighbours in a row of ``W`` have one scale; 0 where all have."""
    scales = layer.linear.scales
    if scales is None or layer.linear.row_scales.shape[1] == 1:
        return 0
    is_along = (scales.axis == 0) == layer.linear.transposed
    return scales.run if is_along and scales.run else 1
