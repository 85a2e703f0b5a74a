"""Owners that stay who they are: a weight becomes a property, computed from its factors.

The owner's class gives way to a subclass of the same name in which the weight's name is a property; the factors live
in a child, ``kronecker``. Nothing else changes: hooks, ``isinstance``, attributes, methods, pickling, copying, and
``release`` takes it all back. An owner whose forward was rewritten gets that forward, as source, which evaluates the
factors. One whose forward cannot be traced (attention that branches on its masks, experts that loop over tokens) keeps
its own, which reads the property; the weight is then formed once per forward, however often it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, cast

from torch import Tensor, nn

from kronfx.layers.candidates import CHILD, FactoredLayer, KroneckerCandidates
from kronfx.layers.folded import GRIDS
from kronfx.layers.linear import KroneckerLinear

Names = tuple[tuple[str, bool], ...]  # of the properties, and whether the owner stores the weight transposed


def adopt(owner: nn.Module, name: str, layer: FactoredLayer, transposed: bool) -> None:
    """Let ``owner.name`` be computed from ``layer``, transposed ``[..., n, m]`` where the owner stores it so."""
    base, names, source = _origin(owner)
    delattr(owner, name)
    vars(owner).get(GRIDS, {}).pop(name, None)
    if CHILD not in owner._modules:
        owner.add_module(CHILD, nn.ModuleDict())
    cast(nn.ModuleDict, owner._modules[CHILD])[name] = layer
    owner.__class__ = _adopted(base, (*names, (name, transposed)), source)


def respell(owner: nn.Module, source: str, children: Mapping[str, nn.Module]) -> None:
    """Give an owner of adopted weights the ``forward`` that ``source`` defines; ``children`` are what else it calls."""
    base, names, _ = _origin(owner)
    cast(nn.ModuleDict, owner._modules[CHILD]).update(children)
    owner.__class__ = _adopted(base, names, source)


def respelled(owner: nn.Module) -> set[str]:
    """The weights whose layers an owner's rewritten forward calls; none where the owner keeps its forward."""
    _, names, source = _origin(owner)
    return set() if source is None else {name for name, _ in names}


def release(owner: nn.Module, name: str, W: Tensor) -> None:
    """Make ``owner.name`` a parameter again: ``W [..., m, n]`` (or an unrolled kernel), and remember its block grid."""
    base, names, source = _origin(owner)
    transposed = dict(names)[name]
    layer = cast(nn.ModuleDict, owner._modules[CHILD]).pop(name)
    convolution = getattr(layer, "convolution", None)
    if convolution is not None:
        W = W.unflatten(-1, (-1, *convolution.kernel))
    left = tuple(entry for entry in names if entry[0] != name)
    if not left:
        delattr(owner, CHILD)
    owner.__class__ = _adopted(base, left, source) if left else base
    value = W.detach().mT.contiguous() if transposed else W.detach().clone()
    owner.register_parameter(name, nn.Parameter(value, requires_grad=W.requires_grad))
    vars(owner).setdefault(GRIDS, {})[name] = layer.shape, transposed, convolution is not None


def factored_weights(owner: nn.Module) -> dict[str, FactoredLayer]:
    """The factors behind an owner's properties, by the names of these."""
    child = owner._modules.get(CHILD)
    held = child.items() if isinstance(child, nn.ModuleDict) else ()
    return {name: layer for name, layer in held if isinstance(layer, (KroneckerLinear, KroneckerCandidates))}


Origin = tuple[type[nn.Module], Names, str | None]  # the class it was, the properties, the rewritten forward's source


def _origin(owner: nn.Module) -> Origin:
    cls = type(owner)
    return getattr(cls, "_kronecker_origin", (cls, (), None))


_CLASSES: dict[Origin, type[nn.Module]] = {}


def _adopted(base: type[nn.Module], names: Names, source: str | None) -> type[nn.Module]:
    """The subclass of ``base`` in which these names are properties: one for equal arguments, whoever asks."""
    origin = base, names, source
    return _CLASSES.get(origin) or _CLASSES.setdefault(origin, _made(base, names, source))


def _made(base: Any, names: Names, source: str | None) -> type[nn.Module]:
    namespace: dict[str, Any] = {name: property(_reader(name, transposed)) for name, transposed in names}
    namespace |= {
        "_kronecker_origin": (base, names, source),
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": lambda self, _protocol: (_blank, (base, names, source), self.__getstate__()),
        "forward": _reading_once(base.forward) if source is None else _compiled(source),
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


def _compiled(source: str) -> Any:
    """The function ``forward`` that the source of an fx graph defines, its imports before it."""
    namespace: dict[str, Any] = {}
    exec(compile(source, "<kronfx forward>", "exec"), namespace)
    return namespace["forward"]


def _blank(base: type[nn.Module], names: Names, source: str | None) -> nn.Module:
    """An empty instance, for copy and pickle."""
    cls = _adopted(base, names, source)
    return cls.__new__(cls)
