"""The linear maps of a graph: products with a constant matrix, however they are spelled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.nodes.values import Array, is_constant, is_matrix, tensor_of


@dataclass(frozen=True, slots=True)
class Linear:
    """``y = x W^T + bias`` with a constant ``weight``: ``W [m, n]``, or ``W^T [n, m]`` where it is ``transposed``.

    ``x [..., n]`` and ``y [..., m]`` are row-major, or, for a product from the left and a 1x1 convolution
    (``channels_first``), ``x [..., n, S]`` and ``y [..., m, S]``. ``node`` is the product; ``y`` is its output. Where
    the exporter flattened leading axes ``around`` it, ``x`` is what was flattened and ``y`` the result in that shape
    again. An 8-bit product has the ``zero_points`` of ``x`` and ``W``; a ``static`` one is spelled as the product
    of two DequantizeLinear: ``x`` and the weight are what these read, ``y`` is a floating number.
    """

    site: str
    node: ir.Node
    x: ir.Value
    y: ir.Value
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None = None
    channels_first: bool = False
    zero_points: tuple[ir.Value | None, ir.Value | None] | None = None
    around: tuple[ir.Node, ...] = ()
    static: bool = False

    @property
    def stored(self) -> Array:
        """The constant as it is, trailing axes of length 1 left out."""
        stored = tensor_of(self.weight).numpy()
        return stored.reshape(stored.shape[:2])

    @property
    def W(self) -> Array:
        """``W [m, n]``; of an integer product, the integers less their zero point."""
        matrix = self.stored.T if self.transposed else self.stored
        zero = self.zero_points[1] if self.zero_points is not None else None
        if zero is None or self.is_symmetric:
            return matrix
        less: Array = matrix.astype(np.int16) - tensor_of(zero).numpy().reshape(-1, 1)  # one for all rows, or one each
        return less

    @property
    def is_symmetric(self) -> bool:
        """True where a stored zero means zero: always but for 8-bit weights with another zero point."""
        zero = self.zero_points[1] if self.zero_points is not None else None
        return zero is None or not tensor_of(zero).numpy().any()

    @property
    def rank(self) -> int | None:
        """Axes of ``x``, where the graph tells."""
        return None if self.x.shape is None else len(self.x.shape)


def find(graph: ir.Graph) -> list[Linear]:
    """Every linear map of a graph, in its order; bodies of ``If`` and ``Loop`` are left alone."""
    return [linear for node in graph if (linear := _linear(node)) is not None]


def _linear(node: ir.Node) -> Linear | None:
    spelling = (
        {"MatMul": _product, "MatMulInteger": _integer, "Gemm": _gemm, "Conv": _pointwise}.get(node.op_type)
        if node.domain == ""
        else None
    )
    return spelling(node) if spelling else None


def _product(node: ir.Node) -> Linear | None:
    left, right = node.inputs
    if left is None or right is None:
        return None
    if is_matrix(right) and not is_constant(left):
        return _unflattened(Linear(right.name or "", node, left, node.outputs[0], right, transposed=True))
    if is_matrix(left) and not is_constant(right):
        return Linear(left.name or "", node, right, node.outputs[0], left, transposed=False, channels_first=True)
    return _static(node, left, right, transposed=True)


def _integer(node: ir.Node) -> Linear | None:
    left, right = node.inputs[:2]
    x_zero, w_zero = (*node.inputs[2:], None, None)[:2]
    if left is None or right is None or not is_constant(right) or len(tensor_of(right).shape) != 2:
        return None
    if w_zero is not None and not is_constant(w_zero):
        return None
    return Linear(right.name or "", node, left, node.outputs[0], right, transposed=True, zero_points=(x_zero, w_zero))


def _static(node: ir.Node, left: ir.Value, right: ir.Value, transposed: bool) -> Linear | None:
    """A product of what was quantized beforehand."""
    x, W = _dequantized(left), _dequantized(right)
    if x is None or W is None or is_constant(x[0]) or not is_constant(W[0]):
        return None
    weight, zero = W
    apart = zero is not None and tensor_of(zero).size != 1 and bool(tensor_of(zero).numpy().any())
    if len(tensor_of(weight).shape) != 2 or apart:
        return None
    zeros, name = (x[1], zero), weight.name or ""
    return Linear(name, node, x[0], node.outputs[0], weight, transposed, zero_points=zeros, static=True)


def _dequantized(value: ir.Value) -> tuple[ir.Value, ir.Value | None] | None:
    """The 8-bit numbers that a DequantizeLinear reads, and their zero point."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear" or node.domain:
        return None
    small, _, zero = (*node.inputs, None)[:3]
    if small is None or (zero is not None and not is_constant(zero)):
        return None
    known = small.const_value.dtype if small.const_value is not None else small.dtype
    return (small, zero) if known in (ir.DataType.INT8, ir.DataType.UINT8) else None


def _gemm(node: ir.Node) -> Linear | None:
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    scaled = any(_number(node, name, 1.0) != 1.0 for name in ("alpha", "beta"))
    if x is None or weight is None or scaled or _number(node, "transA", 0) or is_constant(x):
        return None
    transposed = not _number(node, "transB", 0)
    if not is_matrix(weight):
        return _static(node, x, weight, transposed)
    m = weight.const_value.shape[1 if transposed else 0]  # type: ignore[union-attr]
    if bias is not None and not (is_constant(bias) and tuple(tensor_of(bias).shape.numpy()) in ((m,), (1, m))):
        return None
    return _unflattened(Linear(weight.name or "", node, x, node.outputs[0], weight, transposed, bias))


def _pointwise(node: ir.Node) -> Linear | None:
    x, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if x is None or weight is None or not is_constant(weight) or (bias is not None and not is_constant(bias)):
        return None
    dims = tuple(tensor_of(weight).shape.numpy())
    plain = _number(node, "group", 1) == 1 and all(one == 1 for one in dims[2:]) and _is_unit(node)
    if not plain or not tensor_of(weight).dtype.is_floating_point():
        return None
    return Linear(weight.name or "", node, x, node.outputs[0], weight, False, bias, channels_first=True)


def _is_unit(node: ir.Node) -> bool:
    """A kernel of one tap at every position."""
    strides = node.attributes.get_ints("strides", ())
    pads = node.attributes.get_ints("pads", ())
    padded = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return all(stride == 1 for stride in strides) and not any(pads) and not padded


def _unflattened(linear: Linear) -> Linear:
    """Without the Reshape to ``[-1, n]`` in front and the one back behind, where that is all they do."""
    before, uses = linear.x.producer(), list(linear.y.consumers())
    if before is None or before.op_type != "Reshape" or len(uses) != 1 or uses[0].op_type != "Reshape":
        return linear
    x, y = before.inputs[0], uses[0].outputs[0]
    if (
        x is None
        or x.shape is None
        or y.shape is None
        or linear.y.is_graph_output()
        or uses[0].inputs[0] is not linear.y
    ):
        return linear
    known = all(isinstance(dim, int) or dim.value is not None for dim in (*x.shape, *y.shape))
    m, n = linear.W.shape
    if not known or len(x.shape) < 2 or (*x.shape[:-1], m) != tuple(y.shape) or x.shape[-1] != n:
        return linear
    return Linear(linear.site, linear.node, x, y, linear.weight, linear.transposed, linear.bias, around=(uses[0],))


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)
