"""What is wrong with a weight, or with where it stands, before anyone looks at how it is used: one row a reason.

Each names what a person can do about it. Most are weights that are not what runs: another tensor is computed from them
at each call (``weight_norm``, pruning, parametrizations), they stand for something else (quantized, sharded,
offloaded), or something outside the model holds on to them (a wrapper for several processes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kronfx.errors import KronfxError
from kronfx.layers import wrapped

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

SHARING = (DistributedDataParallel, DataParallel, FullyShardedDataParallel, FSDPModule)
UNWRAP = "factorize the model first, then wrap it"


def unfit(owner: nn.Module, name: str, parameter: nn.Parameter, around: Mapping[nn.Module, str]) -> str | None:
    """Why ``owner.name`` is left alone whatever its owner does with it; None where nothing is wrong with it."""
    return around.get(owner) or _value(parameter) or _computed(owner, name)


def surroundings(model: nn.Module) -> dict[nn.Module, str]:
    """The modules of which every weight is unfit, each with the outermost reason."""
    found: dict[nn.Module, str] = {}
    for module in model.modules():
        row = next((row for row in _AROUND if row.is_met(module)), None)
        if row is not None:
            reason = row.reason(module)
            found |= {inner: reason for inner in row.reach(module) if inner not in found}
    return found


def sharing(model: nn.Module) -> str | None:
    """The wrapper for several devices or processes that a whole model is in, if it is in one."""
    outer: nn.Module | None = model
    while outer is not None and not isinstance(outer, SHARING):
        outer = wrapped(outer)
    return next((kind.__name__ for kind in SHARING if isinstance(outer, kind)), None)


def require_unshared(model: nn.Module, error: type[KronfxError]) -> None:
    """Raise ``error`` where a whole model is wrapped for several devices or processes: replacing its weights would
    leave the wrapper with the old ones."""
    wrapper = sharing(model)
    if wrapper is not None:
        raise error("", f"a model wrapped in {wrapper}", "the model itself", "factorize or load it first, then wrap it")


def unread(owner: nn.Module) -> str:
    """The reason of a weight that its owner's forward does not read."""
    hooks = ", ".join(_named(hook) for hook in owner._forward_pre_hooks.values())
    reason = "its owner's forward never reads it"
    return f"{reason}, its forward pre-hook ({hooks}) may: remove the hook first" if hooks else reason


@dataclass(frozen=True, slots=True)
class _Around:
    """A kind of module, the modules in it that are unfit, and why."""

    is_met: Callable[[nn.Module], bool]
    reason: Callable[[nn.Module], str]
    reach: Callable[[nn.Module], Iterable[nn.Module]] = nn.Module.modules


def _unborn(module: nn.Module) -> Iterable[nn.Module]:
    return (inner for inner in module.modules() if any(p.is_meta for p in inner.parameters(recurse=False)))


_AROUND = (
    _Around(
        lambda module: isinstance(module, SHARING),
        lambda module: f"wrapped in {sharing(module)}, which holds on to the dense weights: {UNWRAP}",
    ),
    _Around(
        lambda module: isinstance(module, torch.jit.ScriptModule),
        lambda _: "compiled by torch.jit, where nothing can be replaced: factorize the model first, then compile it",
    ),
    _Around(
        lambda module: isinstance(module, ParametrizationList),
        lambda module: (
            f"a parametrization ({', '.join(map(_named, module.children()))}) computes the layer's weight from it: "
            "call torch.nn.utils.parametrize.remove_parametrizations first"
        ),
    ),
    _Around(
        lambda module: isinstance(module, (nn.ParameterList, nn.ParameterDict)),
        lambda module: (
            f"held by a {_named(module)}, whose readers are not known: give it a module of its own, as nn.Linear in an "
            "nn.ModuleList"
        ),
    ),
    _Around(  # accelerate brings such weights in for the length of a call
        lambda module: getattr(module, "_hf_hook", None) is not None,
        lambda _: "offloaded by accelerate: factorize the model first (remove_hook_from_submodules brings it back)",
        _unborn,
    ),
)


def _value(parameter: nn.Parameter) -> str | None:
    """What the parameter is."""
    if nn.parameter.is_lazy(parameter):
        return "uninitialized: run one forward pass first"
    if isinstance(parameter, DTensor):
        return f"sharded (a DTensor): {UNWRAP}"
    if type(parameter) is not nn.Parameter:
        kind = type(parameter).__name__
        return f"a {kind}, which may hold its values quantized or packed: factorize the plain model first, then convert"
    if parameter.layout is not torch.strided:
        return f"of layout {_short(parameter.layout)}: call to_dense() on it first"
    if parameter.dtype not in FLOATS:
        return f"dtype {_short(parameter.dtype)} is not a floating type kronfx computes in"
    if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
        return "it has a gradient hook of its own, which its factors' gradients could not go through: remove it first"
    return None


@dataclass(frozen=True, slots=True)
class _Hook:
    """One of torch's older ways to compute a weight: a forward pre-hook of this class, which names the weight here."""

    kind: type
    attribute: str
    remedy: str


_HOOKS = (
    _Hook(WeightNorm, "name", "torch.nn.utils.remove_weight_norm"),
    _Hook(SpectralNorm, "name", "torch.nn.utils.remove_spectral_norm"),
    _Hook(BasePruningMethod, "_tensor_name", "torch.nn.utils.prune.remove"),
)


def _computed(owner: nn.Module, name: str) -> str | None:
    """``weight_v`` or ``weight_orig``, from which a hook computes ``weight`` before each call."""
    for hook in owner._forward_pre_hooks.values():
        for row in _HOOKS:
            if isinstance(hook, row.kind) and name.startswith(f"{getattr(hook, row.attribute)}_"):
                return f"{_named(hook)} computes the layer's weight from it: call {row.remedy} first"
    return None


def _named(value: object) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _short(value: object) -> str:
    return str(value).removeprefix("torch.")
