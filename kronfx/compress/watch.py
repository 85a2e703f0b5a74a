"""What goes into the linear maps of a model and what comes out, seen while the user's own code runs.

A ``torch`` function mode sees every function that a forward calls. Where one of its operands is a watched parameter, or
a view of one, the product is computed as it would have been and told to the parameter's observer: whatever way the map
is spelled (``layers.products`` knows them all), in a module, in a graph or in torch's own attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kronfx.layers import Convolution, answer
from kronfx.layers.products import PRODUCTS, Unformed

aten = torch.ops.aten

# What exported graphs call, by the function whose row of products it is.
EXPORTED: dict[Any, Callable[..., Any]] = {
    aten.linear.default: F.linear,
    aten.matmul.default: torch.matmul,
    aten.mm.default: torch.mm,
    aten.bmm.default: torch.bmm,
    aten.addmm.default: torch.addmm,
    aten.conv1d.default: F.conv1d,
    aten.conv2d.default: F.conv2d,
    aten.conv3d.default: F.conv3d,
}


class Observer(Protocol):
    """Who is told of the products with one parameter."""

    def product(self, x: Tensor, matrix: Tensor, y: Tensor) -> None:
        """``y = x @ matrix``, a view of the parameter; of a convolution its kernel."""

    def beside(self, parameters: list[nn.Parameter]) -> None:
        """The parameters that the function which is about to multiply takes besides, its bias among them."""


@dataclass(frozen=True, eq=False)
class Watched(Unformed):
    """A watched parameter, or a view of one, among the arguments of a product."""

    tensor: Tensor
    observer: Observer

    @property
    def shape(self) -> torch.Size:
        """The tensor's."""
        return self.tensor.shape

    @property
    def mT(self) -> Watched:
        return Watched(self.tensor.mT, self.observer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tensor, name)

    def __getitem__(self, key: Any) -> Watched:
        return Watched(self.tensor[key], self.observer)

    def split(self, *args: Any, **kwargs: Any) -> tuple[Watched, ...]:
        """Its parts, watched as well."""
        return tuple(Watched(part, self.observer) for part in self.tensor.split(*args, **kwargs))

    def chunk(self, *args: Any, **kwargs: Any) -> tuple[Watched, ...]:
        """Its parts, watched as well."""
        return tuple(Watched(part, self.observer) for part in self.tensor.chunk(*args, **kwargs))

    def formed(self) -> Tensor:
        return self.tensor

    def applied(self, x: Any) -> Any:
        return self._told(x, torch.matmul(x, self.tensor))

    def convolved(self, x: Any, convolution: Convolution) -> Any:
        return self._told(x, convolution(x, self.tensor))

    def _told(self, x: Any, y: Any) -> Any:
        if torch.is_grad_enabled() and not y.requires_grad:
            y = (
                y.requires_grad_().clone()
            )  # its parameters are fixed: the gradient begins here, where writes may follow
        self.observer.product(x, self.tensor, y)
        return y


class Watch(TorchFunctionMode):
    """Tells the observers of all products with their parameters that run under it."""

    def __init__(self, observers: Mapping[nn.Parameter, Observer]) -> None:
        super().__init__()
        self._observers = {_storage(parameter): observer for parameter, observer in observers.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        function = EXPORTED.get(func, func)
        if function not in PRODUCTS:
            return func(*args, **kwargs)
        values = [self._known(value) for value in (*args, *kwargs.values())]
        watched = [value for value in values if isinstance(value, Watched)]
        if not watched:
            return func(*args, **kwargs)
        beside = [value for value in values if isinstance(value, nn.Parameter)]
        for each in watched:
            each.observer.beside(beside)
        return answer(function, values[: len(args)], dict(zip(kwargs, values[len(args) :])))

    def _known(self, value: Any) -> Any:
        if type(value) not in (Tensor, nn.Parameter) or value.is_meta:
            return value
        observer = self._observers.get(_storage(value))
        return value if observer is None else Watched(value, observer)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
