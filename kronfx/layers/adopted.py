"""Owners that stay who they are: a weight becomes a module of its name, which answers for it.

What a person wrote stays what runs. The owner keeps its class and its ``forward``, and with them its contexts, its
attributes, its branches and its patches; ``self.weight`` finds in ``owner._modules`` what it found in
``owner._parameters``: a factored layer that stands for its ``W``, with ``weight.S`` and its like as ``state_dict``
keys. Nothing is done to anybody's class, so ``copy``, ``pickle``, ``isinstance`` and every reference to the owner are
as they were.

A submodule, not a tensor subclass: a subclass would be one parameter that hides three, which optimizers, DDP, FSDP and
checkpoints have to see. Torch asks anything with ``__torch_function__`` to answer, so functions, methods and registered
operators take it, compiled and exported too. The prices: ``isinstance(owner.weight, Tensor)`` is False, and torch's
fused inference kernels for attention, which take tensors only, step aside for the ordinary path. The two differ where a
``nn.TransformerEncoder`` gets a padding mask: the fused one sets the padded positions to zero.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from kronfx.layers.candidates import FactoredLayer, KroneckerCandidates
from kronfx.layers.convolution import KroneckerConv
from kronfx.layers.folded import GRIDS
from kronfx.layers.linear import KroneckerLinear
from kronfx.layers.tensorlike import TensorLike, otherwise
from kronfx.layers.view import WeightView
from kronfx.layers.writes import require_factors


class KroneckerWeight(TensorLike, nn.Module):
    """A factored layer in the place of its owner's parameter ``W [..., m, n]``.

    ``transposed``: the owner stores it ``[..., n, m]``.
    """

    transposed: bool

    def view(self) -> WeightView:
        """The weight as a value."""
        return WeightView(cast(FactoredLayer, self), self.transposed)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return otherwise(self, name)


class LinearWeight(KroneckerWeight, KroneckerLinear):
    """The matrix of a linear map, or a stack of them."""

    def set_nearest(self, W: Tensor) -> None:
        """Set the factors to the nearest ones of ``W``, as the owner stores it."""
        super().set_nearest(W.mT if self.transposed else W)


class ConvolutionWeight(KroneckerWeight, KroneckerConv):
    """The kernel of a convolution, ``[m, channels, *kernel]``."""

    def set_nearest(self, W: Tensor) -> None:
        """Set the factors to the nearest ones of this kernel."""
        super().set_nearest(W.flatten(1))


class CandidatesWeight(KroneckerWeight, KroneckerCandidates):
    """A matrix or a kernel while candidates for it stand side by side."""

    @staticmethod
    def decided(kind: type[KroneckerLinear]) -> type[KroneckerLinear]:
        """The weight that the last candidate makes."""
        weight: type[KroneckerLinear] = _WEIGHTS[kind]
        return weight


_WEIGHTS: dict[type, Any] = {
    KroneckerLinear: LinearWeight,
    KroneckerConv: ConvolutionWeight,
    KroneckerCandidates: CandidatesWeight,
}


def adopt(owner: nn.Module, name: str, layer: FactoredLayer, transposed: bool) -> nn.Module:
    """Let ``owner.name`` be ``W`` of ``layer``, transposed ``[..., n, m]`` where the owner stores it so; returns it."""
    kind = _WEIGHTS[type(layer)]
    weight = kind.__new__(kind)
    vars(weight).update(vars(layer), transposed=transposed)
    delattr(owner, name)
    vars(owner).get(GRIDS, {}).pop(name, None)
    owner.add_module(name, weight.train(owner.training))
    if not any(_is_ours(hook) for hook in owner._load_state_dict_pre_hooks.values()):
        owner.register_load_state_dict_pre_hook(_require_factors)
    return cast(nn.Module, weight)


def _require_factors(
    owner: nn.Module, state_dict: dict[str, Any], prefix: str, _metadata: Any, _strict: bool, _missing: list[str],
    _unexpected: list[str], errors: list[str],
) -> None:  # fmt: skip
    """Torch shows a child only what is below its name: what has its name itself, the owner sees."""
    for name in factored_weights(owner):
        require_factors(state_dict, f"{prefix}{name}", errors)


def _is_ours(hook: Any) -> bool:
    return getattr(hook, "hook", None) is _require_factors


def release(owner: nn.Module, name: str, W: Tensor) -> nn.Parameter:
    """Make ``owner.name`` a parameter again: ``W [..., m, n]`` (or an unrolled kernel), and remember its block grid."""
    weight = cast(Any, owner._modules.pop(name))
    convolution = weight.view().convolution
    if convolution is not None:
        W = W.unflatten(-1, (-1, *convolution.kernel))
    value = W.detach().mT.contiguous() if weight.transposed else W.detach().clone()
    if not factored_weights(owner):
        hooks = owner._load_state_dict_pre_hooks
        for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
            del hooks[key]
    parameter = nn.Parameter(value, requires_grad=W.requires_grad)
    owner.register_parameter(name, parameter)
    vars(owner).setdefault(GRIDS, {})[name] = weight.grid, weight.transposed, convolution is not None
    return parameter


def factored_weights(owner: nn.Module) -> dict[str, FactoredLayer]:
    """The factors behind an owner's weights, by the names of these."""
    held = ((name, child) for name, child in owner._modules.items() if isinstance(child, KroneckerWeight))
    return {name: cast(FactoredLayer, child) for name, child in held}
