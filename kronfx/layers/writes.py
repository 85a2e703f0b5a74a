"""Writes into a weight that is computed: they would change a tensor that is gone with the expression, so they raise.

``nn.init.*_(layer.weight)``, ``layer.weight.data += delta`` (how adapters merge), ``clamp_``, ``copy_``: on a parameter
each of them is work done. On a weight formed from its factors for the occasion it would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import GetSetDescriptorType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronfx.errors import WeightError

INPLACE = {f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")}
HOOKS = {"register_hook", "register_post_accumulate_grad_hook"}


def is_write(name: str) -> bool:
    """Whether a function of this name changes its first argument, or hangs something on it."""
    underscored = name.endswith("_") and not name.endswith("__")
    return underscored or name in INPLACE or name in HOOKS or name == "__setitem__"


# By the functions themselves: other functions may have such a name.
_ATTRIBUTES = [
    each for each in (getattr(Tensor, name) for name in dir(Tensor)) if isinstance(each, GetSetDescriptorType)
]
WRITING = frozenset(
    [getattr(room, name) for room in (Tensor, torch, F, nn.init) for name in dir(room) if is_write(name)]
    + [attribute.__set__ for attribute in _ATTRIBUTES]
)
# What shares memory with its argument: writing there is writing into the weight.
_SHARING = (
    "detach", "view", "t", "transpose", "permute", "__getitem__", "reshape", "flatten", "squeeze", "unsqueeze", "split",
    "chunk", "unbind",
)  # fmt: skip
SHARING = frozenset(
    [getattr(room, name) for room in (Tensor, torch) for name in _SHARING if hasattr(room, name)]
    + [Tensor.data.__get__, Tensor.T.__get__, Tensor.mT.__get__]  # type: ignore[attr-defined]
)


def refuse(name: str) -> NoReturn:
    """Raise WeightError for a write by this name."""
    raise WeightError(
        "",
        f"{'an assignment' if name == '__set__' else name} to a weight that is computed from its factors",
        "a tensor that keeps what is written into it",
        "call kx.fold(model) first, set the factors (layer.set_nearest(W)), or write into a .detach().clone()",
    )


def writes(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], kind: type) -> bool:
    """Whether a call would change an argument of this kind. A compiler is not asked: it cannot look functions up."""
    if torch.compiler.is_compiling():
        return False
    written = args[0] if args else next(iter(kwargs.values()), None)
    if issubclass(type(written), kind) and function in WRITING:
        return True
    return issubclass(type(kwargs.get("out")), kind)


class _LikeAnyTensor(type(Tensor)):  # type: ignore[misc]
    """``torch.testing`` compares two tensors where one is an instance of the other's type."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, Tensor)


class ComputedWeight(Tensor, metaclass=_LikeAnyTensor):
    """``W``, formed from its factors now: what reads it gets plain tensors, what writes raises WeightError."""

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if writes(func, args, kwargs, cls):
            refuse(getattr(func, "__name__", str(func)))
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if torch.compiler.is_compiling() or func not in SHARING:
            return result
        return (
            result.as_subclass(cls) if isinstance(result, Tensor) else tuple(part.as_subclass(cls) for part in result)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return self.as_subclass(Tensor).detach().clone()


def computed(W: Tensor) -> Tensor:
    """``W`` guarded against writes; as it is for traces and compilers."""
    if type(W) is not Tensor or torch.compiler.is_compiling():
        return W
    return W.as_subclass(ComputedWeight)


def require_factors(state_dict: Mapping[str, Any], key: str, errors: list[str]) -> None:
    """Say that a state dict has a dense weight at ``key`` where factors are; loading it loosely would lose it."""
    if key in state_dict:
        errors.append(
            f"{key} is a dense weight in this state dict and factored in this model: load it into the dense model and "
            "factorize that, fold this one first (kx.fold), or set the factors (set_nearest)"
        )
