"""Owners that keep their forward: a weight becomes a property, computed from its factors.

A module whose forward cannot be traced (attention that branches on its masks, experts that loop over tokens) still
reads its weight by name. Its class gives way to a subclass of the same name in which that name is a property; the
factors live in a child, ``kronecker``. Nothing else changes: forward, hooks, ``isinstance``, attributes, pickling,
copying. The weight is formed once per forward, however often it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from torch import Tensor, nn

from kronfx.layers.linear import FoldedWeight, KroneckerLinear
from kronfx.records import KroneckerShape

Names = tuple[tuple[str, bool], ...]  # of the properties, and whether the owner stores the weight transposed

CHILD = "kronecker"
GRIDS = "kronecker_grids"


def adopt(owner: nn.Module, name: str, layer: KroneckerLinear, transposed: bool) -> None:
    """Let ``owner.name`` be computed from ``layer``, transposed ``[..., n, m]`` where the owner stores it so."""
    base, names = _origin(owner)
    delattr(owner, name)
    if CHILD not in owner._modules:
        owner.add_module(CHILD, nn.ModuleDict())
    cast(nn.ModuleDict, owner._modules[CHILD])[name] = layer
    owner.__class__ = _adopted(base, (*names, (name, transposed)))


def release(owner: nn.Module, name: str, W: Tensor) -> None:
    """Make ``owner.name`` a parameter again: ``W [..., m, n]``, and remember its block grid."""
    base, names = _origin(owner)
    transposed = dict(names)[name]
    layer = cast(nn.ModuleDict, owner._modules[CHILD]).pop(name)
    left = tuple(entry for entry in names if entry[0] != name)
    if not left:
        delattr(owner, CHILD)
    owner.__class__ = _adopted(base, left) if left else base
    value = W.detach().mT.contiguous() if transposed else W.detach().clone()
    owner.register_parameter(name, nn.Parameter(value, requires_grad=W.requires_grad))
    vars(owner).setdefault(GRIDS, {})[name] = layer.shape, transposed


def released(owner: nn.Module) -> dict[str, FoldedWeight]:
    """The folded weights of an owner, by their names in it."""
    grids: dict[str, tuple[KroneckerShape, bool]] = vars(owner).get(GRIDS, {})
    found = {}
    for name, (shape, transposed) in grids.items():
        weight = getattr(owner, name).detach()
        found[name] = FoldedWeight(weight.mT if transposed else weight, shape)
    return found


def factored_weights(owner: nn.Module) -> dict[str, KroneckerLinear]:
    """The factors behind an owner's properties, by the names of these."""
    child = owner._modules.get(CHILD)
    return (
        {n: m for n, m in child.items() if isinstance(m, KroneckerLinear)} if isinstance(child, nn.ModuleDict) else {}
    )


def _origin(owner: nn.Module) -> tuple[type[nn.Module], Names]:
    cls = type(owner)
    return getattr(cls, "_kronecker_origin", (cls, ()))


_CLASSES: dict[tuple[type[nn.Module], Names], type[nn.Module]] = {}


def _adopted(base: type[nn.Module], names: Names) -> type[nn.Module]:
    """The subclass of ``base`` in which these names are properties: one for one set of names, whoever asks."""
    return _CLASSES.get((base, names)) or _CLASSES.setdefault((base, names), _made(base, names))


def _made(base: Any, names: Names) -> type[nn.Module]:
    namespace: dict[str, Any] = {name: property(_reader(name, transposed)) for name, transposed in names}
    namespace |= {
        "_kronecker_origin": (base, names),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": lambda self, _protocol: (_blank, (base, names), self.__getstate__()),
        "forward": _reading_once(base.forward),
    }
    return type(base.__name__, (base,), namespace)


def _reader(name: str, transposed: bool) -> Callable[[nn.Module], Tensor]:
    def read(owner: nn.Module) -> Tensor:
        read_now: dict[str, Tensor] | None = vars(owner).get("_kronecker_read")
        if read_now is not None and name in read_now:
            return read_now[name]
        W = factored_weights(owner)[name].weight
        weight = W.mT if transposed else W
        if read_now is not None:
            read_now[name] = weight
        return weight

    return read


def _reading_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def reading_once(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        vars(self)["_kronecker_read"] = {}
        try:
            return forward(self, *args, **kwargs)
        finally:
            vars(self).pop("_kronecker_read", None)

    return reading_once


def _blank(base: type[nn.Module], names: Names) -> nn.Module:
    """An empty instance, for copy and pickle."""
    cls = _adopted(base, names)
    return cls.__new__(cls)
