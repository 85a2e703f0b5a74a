"""``factors``: the layer's own evaluation on stored operands, feature-major: nothing is transposed, all else are views.

``x [..., n, S]`` with ``n = n1 n2``; ``left`` and ``right`` are those of ``kronfx.kron``:

- ``a_first``: ``left [m1 r, n1] @ x [n1, n2 S]`` -> view ``[m1, r n2, S]``, ``right^T [m2, r n2] @`` -> ``[m1, m2, S]``
- ``b_first``: ``right^T [r m2, n2] @ x [n1, n2, S]`` -> view ``[n1 r, m2 S]``, ``left [m1, n1 r] @`` -> ``[m1, m2 S]``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kronfx import cost as work
from kronfx import kron, price
from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.lower.lowerings.axes import no_axes
from kronfx.deploy.nodes.values import Array, array_of
from kronfx.errors import ExportError
from kronfx.layers import Factors
from kronfx.records import Evaluation


def refusal(layer: Layer) -> str | None:
    """Where the factors or the axes of ``x`` are unknown, or forming ``W`` is the cheapest way to use them."""
    if layer.origin is None or layer.origin.factors is None:
        return "none are known"
    if layer.origin.evaluation == "materialize":
        return "its cheapest evaluation forms the dense weight"
    return no_axes(layer)


def stored(layer: Layer) -> int:
    """Bytes of ``left`` and ``right``."""
    left, right = _operands(layer)
    return left.nbytes + right.nbytes


def cost(layer: Layer, rows: int) -> float:
    """Multiply-adds of the evaluation, what its intermediate and its layouts cost, five nodes."""
    counted = work.work(layer.shape, _rank(layer), rows, _evaluation(layer))
    moved = price.ENTRY * counted.intermediate + price.TRANSPOSED * rows * (layer.shape.m + layer.shape.n)
    return price.SMALL * counted.forward + price.WEIGHT * stored(layer) / layer.itemsize + moved + 5 * price.NODE


def emit(layouts: Layouts, layers: Sequence[Layer], x: Feature) -> list[Feature]:
    """``W x`` of each layer by two products."""
    return [_emit(layouts, layer, x) for layer in layers]


def _emit(layouts: Layouts, layer: Layer, x: Feature) -> Feature:
    build, shape, r = layouts.build, layer.shape, _rank(layer)
    left, right = _operands(layer)
    x = layouts.make_ordered(x)
    if layer.is_padded:
        ends = build.integers(*(0,) * x.rank, *x.prefix, shape.n - x.channels, 0)
        x = replace(x, value=build.op("Pad", x.value, ends), channels=shape.n)
    A = build.constant(f"{layer.name}/left", left)
    B = build.constant(f"{layer.name}/right", right.T)
    if _evaluation(layer) == "a_first":
        mixed = build.op("MatMul", A, build.op("Reshape", x.value, build.integers(*x.prefix, shape.n1, -1)))
        first = build.op("Reshape", mixed, build.integers(*x.prefix, shape.m1, r * shape.n2, -1))
        y = build.op("MatMul", B, first)
    else:
        tiles = build.op("MatMul", B, build.op("Reshape", x.value, build.integers(*x.prefix, shape.n1, shape.n2, -1)))
        y = build.op("MatMul", A, build.op("Reshape", tiles, build.integers(*x.prefix, shape.n1 * r, -1)))
    m, axis = layer.survivors.dims[0], x.rank - 2
    y = build.op("Reshape", y, build.integers(*x.prefix, shape.m, -1))
    if layer.is_padded:
        y = build.op("Slice", y, build.integers(0), build.integers(m), build.integers(axis))
    return Feature(y, x.rank, m)


def _operands(layer: Layer) -> tuple[Array, Array]:
    factors = _factors(layer)
    operands = kron.a_first_operands if _evaluation(layer) == "a_first" else kron.b_first_operands
    left, right = operands(factors.S.detach(), factors.A.detach(), factors.B.detach())
    dtype = layer.linear.stored.dtype
    return array_of(left).astype(dtype), array_of(right).astype(dtype)


def _rank(layer: Layer) -> int:
    return _factors(layer).rank


def _factors(layer: Layer) -> Factors:
    if layer.origin is None or layer.origin.factors is None:
        raise ExportError(layer.name, "no factors", "a layer that refusal() lets pass", "report this as a bug")
    return layer.origin.factors


def _evaluation(layer: Layer) -> Evaluation:
    return layer.origin.evaluation if layer.origin is not None else "materialize"
