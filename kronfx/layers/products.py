"""What torch's functions answer when one of their arguments is a weight that is not formed.

A product is a row of ``PRODUCTS``: a function with torch's own parameters that returns the product by the factors, or
NotImplemented where the operands do not fit, and then, as for every function that has no row, ``W`` is formed. Torch
calls it through ``__torch_function__``, eagerly, while it compiles and while it exports; ``kronfx.graph`` calls it for
the values of its trace.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx.layers.convolution import CONVOLVE, Convolution
from kronfx.layers.writes import refuse, writes


class Unformed:
    """A weight that is not formed. What it stands for is a tensor, ``[..., m, n]`` or ``[..., n, m]``."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return answer(func, args, kwargs or {})

    @property
    def mT(self) -> Any:
        """Its transpose."""
        raise NotImplementedError

    def formed(self) -> Tensor:
        """The tensor, formed now; differentiable with respect to the factors."""
        raise NotImplementedError

    def applied(self, x: Any) -> Any:
        """``x @ self`` by the factors; None where only the tensor will do."""
        raise NotImplementedError

    def convolved(self, x: Any, convolution: Convolution) -> Any:
        """The convolution of ``x`` with the kernel that it stands for, by the factors; None where that is no other."""
        raise NotImplementedError


def answer(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``function(*args, **kwargs)`` with weights that are not formed among them. Raises WeightError for a write."""
    if writes(function, args, kwargs, Unformed):
        refuse(function.__name__)
    product = PRODUCTS.get(function)
    found = NotImplemented if product is None else product(*args, **kwargs)
    if found is not NotImplemented:
        return found
    return function(*(_formed(value) for value in args), **{name: _formed(value) for name, value in kwargs.items()})


def holds_unformed(values: Any) -> bool:
    """Whether there is a weight that is not formed among these arguments."""
    if isinstance(values, (tuple, list)):
        return any(holds_unformed(value) for value in values)
    return isinstance(values, Unformed)


def _formed(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return type(value)(_formed(each) for each in value)
    return value.formed() if isinstance(value, Unformed) else value


def _times(x: Any, weight: Any) -> Any:
    """``x @ weight``, one of them not formed."""
    if isinstance(x, Unformed):
        if isinstance(weight, Unformed):
            return NotImplemented
        y = x.mT.applied(weight if weight.dim() == 1 else weight.mT)
        y = y if y is None or weight.dim() == 1 else y.mT.contiguous()
    else:
        y = weight.applied(x)
    return NotImplemented if y is None else y


def _linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(weight, Unformed) or isinstance(input, Unformed):
        return NotImplemented
    y = _times(input, weight.mT)
    if y is NotImplemented or bias is None:
        return y
    return y + _formed(bias).to(y.dtype)


def _matmul(input: Any, other: Any) -> Any:
    """``input @ other``. torch's compiler (2.13) hands ``weight @ x`` over as ``x @ weight``: told apart by the sizes,
    but for an ``x`` that fits on both sides.
    """
    handed = torch.compiler.is_compiling() and isinstance(input, Tensor) and input.dim() == 2
    if handed and isinstance(other, Unformed) and input.shape[-1] != other.mT.shape[-1]:
        return _times(other, input)
    return _times(input, other)


def _reversed(other: Any, input: Any) -> Any:
    """``input @ other``."""
    return _times(input, other)


def _mm(input: Any, mat2: Any) -> Any:
    return _times(input, mat2)


def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(input, _times(mat1, mat2), beta, alpha)


def _baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return _plus(input, _times(batch1, batch2), beta, alpha)


def _plus(bias: Any, y: Any, beta: float, alpha: float) -> Any:
    if y is NotImplemented or isinstance(bias, Unformed):
        return NotImplemented
    return bias.to(y.dtype) * beta + y * alpha if (beta, alpha) != (1, 1) else bias.to(y.dtype) + y


def _einsum(equation: Any, *operands: Any) -> Any:
    given = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    if not isinstance(equation, str) or len(given) != 2:
        return NotImplemented
    x, weight = given
    transposed = rows_times_matrix(equation, isinstance(x, Unformed))
    weight, x = (x, weight) if isinstance(x, Unformed) else (weight, x)
    if transposed is None or isinstance(x, Unformed):
        return NotImplemented
    return _times(x, weight if transposed else weight.mT)


def rows_times_matrix(equation: str, matrix_first: bool) -> bool | None:
    """Whether an einsum of two operands is ``x @ V`` of a matrix stored ``[n, m]`` (True) or ``[m, n]`` (False)."""
    left, _, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return None
    rows, matrix = terms[::-1] if matrix_first else terms
    if len(matrix) != 2 or not rows or not out:
        return None
    n = rows[-1]
    m = matrix.replace(n, "", 1)
    if n not in matrix or out != rows[:-1] + m or m in rows or n in out:
        return None
    return matrix[0] == n


def _grouped(input: Any, weight: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Rows sorted by the member of the stack that they meet: a product a member. A compiler, for which the numbers of
    rows are no numbers, gets ``W``.
    """
    plain = offs is not None and bias is None and out_dtype is None and not torch.compiler.is_compiling()
    if not plain or isinstance(input, Unformed) or weight.dim() != 3 or input.dim() != 2:
        return NotImplemented
    bounds = [0, *offs.tolist()]
    parts = [_times(input[start:stop], weight[i]) for i, (start, stop) in enumerate(pairwise(bounds))]
    beyond = parts[0].new_zeros(input.shape[0] - bounds[-1], parts[0].shape[-1])
    return torch.cat([*parts, beyond])


def _convolution(dims: int) -> Callable[..., Any]:
    def convolve(
        input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        if not isinstance(weight, Unformed) or groups != 1 or (isinstance(input, Tensor) and input.dim() != dims + 2):
            return NotImplemented
        y = weight.convolved(input, Convolution.of(tuple(weight.shape[2:]), stride, padding, dilation))  # type: ignore[attr-defined]
        if y is None:
            return NotImplemented
        return y if bias is None else y + _formed(bias).to(y.dtype).unflatten(0, (-1, *(1 for _ in range(dims))))

    return convolve


def _body(function: FunctionType) -> FunctionType:
    """A function of torch's that asks first whether an argument wants to answer for it: without the question."""
    names = {**function.__globals__, "has_torch_function": lambda _arguments: False}
    body = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    body.__kwdefaults__ = function.__kwdefaults__
    return body


def _method(name: str) -> Callable[..., Any]:
    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(input, name)(*args, **kwargs) if isinstance(input, Unformed) else NotImplemented

    return call


_VIEWS = ("t", "transpose", "permute", "swapaxes", "swapdims", "adjoint", "chunk", "split", "unbind")
_GROUPED = [
    getattr(module, name) for module, name in ((torch, "_grouped_mm"), (F, "grouped_mm")) if hasattr(module, name)
]

PRODUCTS: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.multi_head_attention_forward: _body(F.multi_head_attention_forward),  # type: ignore[arg-type]
    torch.einsum: _einsum,
    Tensor.__rmatmul__: _reversed,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, operator.matmul), _matmul),
    **dict.fromkeys((torch.mm, Tensor.mm, torch.bmm, Tensor.bmm), _mm),
    **dict.fromkeys((torch.addmm, Tensor.addmm), _addmm),
    **dict.fromkeys((torch.baddbmm, Tensor.baddbmm), _baddbmm),
    **dict.fromkeys(_GROUPED, _grouped),
    **{function: _convolution(dims) for dims, function in CONVOLVE.items()},
    **{getattr(torch, name): _method(name) for name in _VIEWS},
}
