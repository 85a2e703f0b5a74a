"""A weight that is not formed: what its owner's code reads in the place of a parameter, answered by the factors.

``self.weight`` of an owner that keeps its forward is a factored layer (``layers.adopted``), registered under the
weight's own name. Both it and what code makes of it before the product (``w.T``, ``w[expert]``, ``w.to(x.dtype)``, ``q,
k, v = w.chunk(3)``) are tensor-like: they tell shape, dtype and device, products with them run by the factors
(``layers.products``), anything else gets ``W``, formed then and differentiable. So a use that nobody foresaw is slow
and right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kronfx.layers.convolution import Convolution
from kronfx.layers.products import Unformed
from kronfx.layers.writes import computed, is_write, refuse

if TYPE_CHECKING:
    from kronfx.layers.view import WeightView


class TensorLike(Unformed):
    """What code asks of a weight before it multiplies by it. ``view()`` says which weight."""

    def view(self) -> WeightView:
        """The weight as a value."""
        raise NotImplementedError

    @property
    def shape(self) -> torch.Size:
        return self.view().size_of()

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        view = self.view()
        return view.cast or view.first.S.dtype

    @property
    def device(self) -> torch.device:
        return self.view().first.S.device

    @property
    def layout(self) -> torch.layout:
        return torch.strided

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def requires_grad(self) -> bool:
        return any(p.requires_grad for p in self.view().layer.parameters())

    @property
    def grad(self) -> None:
        """None: gradients are the factors'."""
        return None

    @property
    def data(self) -> Tensor:
        return self.guarded().detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        refuse("__set__")

    @property
    def T(self) -> WeightView | Tensor:
        return self.mT

    @property
    def mT(self) -> WeightView | Tensor:
        view = self.view()
        return view.guarded().mT if view.convolution is not None else replace(view, transposed=not view.transposed)

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return math.prod(self.shape)

    def t(self) -> WeightView | Tensor:
        return self.mT

    def adjoint(self) -> WeightView | Tensor:
        return self.mT

    def transpose(self, dim0: int, dim1: int) -> WeightView | Tensor:
        """A view where the last two axes change places."""
        dims = len(self.shape)
        return self.mT if {dim0 % dims, dim1 % dims} == {dims - 2, dims - 1} else self.guarded().transpose(dim0, dim1)

    swapaxes = swapdims = transpose

    def permute(self, *dims: Any) -> WeightView | Tensor:
        """A view where that is to change the last two axes."""
        order = tuple(dims[0]) if len(dims) == 1 and not isinstance(dims[0], int) else dims
        count = len(self.shape)
        swapped = (*range(count - 2), count - 1, count - 2)
        return self.mT if tuple(d % count for d in order) == swapped else self.guarded().permute(*order)

    def contiguous(self) -> WeightView:
        return self.view()

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """A view of another dtype; on another device, ``W``."""
        given = args[0] if len(args) == 1 and not kwargs else kwargs.get("dtype") if set(kwargs) == {"dtype"} else None
        if isinstance(given, (Tensor, TensorLike)) and given.device == self.device:
            given = given.dtype
        if isinstance(given, torch.dtype):
            return replace(self.view(), cast=given)
        return self.formed().to(*args, **kwargs)

    def type_as(self, other: Tensor) -> Any:
        return self.to(other)

    def float(self, *_: Any, **__: Any) -> Any:
        return self.to(torch.float32)

    def double(self, *_: Any, **__: Any) -> Any:
        return self.to(torch.float64)

    def half(self, *_: Any, **__: Any) -> Any:
        return self.to(torch.float16)

    def bfloat16(self, *_: Any, **__: Any) -> Any:
        return self.to(torch.bfloat16)

    def type(self, *args: Any, **kwargs: Any) -> Any:
        return self.formed().type(*args, **kwargs)

    def cpu(self, *args: Any, **kwargs: Any) -> Any:
        return self.view() if self.device.type == "cpu" else self.formed().cpu(*args, **kwargs)

    def cuda(self, *args: Any, **kwargs: Any) -> Any:
        return self.view() if self.is_cuda and not args and not kwargs else self.formed().cuda(*args, **kwargs)

    def split(self, split_size: Any, dim: int = 0) -> tuple[Any, ...]:
        """Views, where the pieces are whole rows of ``W`` (packed projections)."""
        total = self.shape[dim]
        sizes = [split_size] * (total // split_size) if isinstance(split_size, int) else list(split_size)
        if isinstance(split_size, int) and total % split_size:
            sizes.append(total % split_size)
        view = self.view()
        if not view.along_rows(dim):
            return tuple(self.guarded().split(split_size, dim))
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        return tuple(view.rows_of(end - size, end) for size, end in zip(sizes, ends))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Any, ...]:
        return self.split(-(-self.shape[dim] // chunks), dim)

    def unbind(self, dim: int = 0) -> tuple[Any, ...]:
        return tuple(self[i] for i in range(self.shape[0])) if dim == 0 else tuple(self.guarded().unbind(dim))

    def __getitem__(self, key: Any) -> WeightView | Tensor:
        found = self.view().selected(key)
        return self.guarded()[key] if found is None else found

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind())

    def __len__(self) -> int:
        return self.shape[0]

    def formed(self) -> Tensor:
        """``W`` as the owner stores it, formed now."""
        return self.view().materialized()

    def guarded(self) -> Tensor:
        """``W``, formed now, for code that may write into it."""
        return computed(self.formed())

    def applied(self, x: Any) -> Any:
        """``x @ self`` by the factors; None where only ``W`` will do."""
        return self.view().product(x)

    def convolved(self, x: Any, convolution: Convolution) -> Any:
        """The layer's convolution of ``x``; None where another is asked for."""
        view = self.view()
        return view.layer(x) if view.convolution == convolution and view.cast is None else None

    def __matmul__(self, other: Any) -> Any:
        return torch.matmul(self, other)  # type: ignore[arg-type]

    def __rmatmul__(self, other: Any) -> Any:
        return torch.matmul(other, self)  # type: ignore[arg-type]

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.formed().__array__(*args, **kwargs)


def _formed_first(name: str) -> Callable[..., Any]:
    def operate(self: TensorLike, *args: Any) -> Any:
        return getattr(self.formed(), name)(*args)

    return operate


def _refusing(name: str) -> Callable[..., Any]:
    def operate(*_: Any, **__: Any) -> Any:
        refuse(name)

    return operate


_READING = [
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "truediv",
    "rtruediv",
    "floordiv",
    "mod",
    "pow",
    "rpow",
    "neg",
    "pos",
    "abs",
    "lt",
    "le",
    "gt",
    "ge",
]
_WRITING = ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "setitem"]
for _name in (f"__{part}__" for part in _READING):
    setattr(TensorLike, _name, _formed_first(_name))
for _name in (f"__{part}__" for part in _WRITING):
    setattr(TensorLike, _name, _refusing(_name))


def otherwise(weight: TensorLike, name: str) -> Any:
    """Whatever else a tensor has by that name: of ``W``, formed now; a method that writes raises when it is called."""
    if name.startswith("_") or not hasattr(Tensor, name):
        raise AttributeError(f"{type(weight).__name__!r} object has no attribute {name!r}")
    return _refusing(name) if is_write(name) else getattr(weight.guarded(), name)
