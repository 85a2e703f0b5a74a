"""Owners that stay who they are: a weight becomes a module of its name, which answers for it.

What a person wrote stays what runs. The owner keeps its class and its ``forward``, and with them its contexts, its
attributes, its branches and its patches; ``self.weight`` finds in ``owner._modules`` what it found in
``owner._parameters``: a factored layer that stands for its ``W``, with ``weight.S`` and its like as ``state_dict``
keys. Nothing is done to anybody's class, so ``copy``, ``pickle``, ``isinstance`` and every reference to the owner are
as they were.

A submodule, not a tensor subclass: a subclass would be one parameter that hides three, which optimizers, DDP, FSDP and
checkpoints have to see. The price is ``isinstance(owner.weight, Tensor)``, which is False, and operators registered by
others (``torch.ops``), which ask for a tensor and raise TypeError; sites where a weight goes there are refused.
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

    ``turned``: the owner stores it ``[..., n, m]``.
    """

    turned: bool

    def view(self) -> WeightView:
        """The weight as a value."""
        return WeightView(cast(FactoredLayer, self), self.turned)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return otherwise(self, name)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, missing: list[str],
        unexpected: list[str], errors: list[str],
    ) -> None:  # fmt: skip
        require_factors(state_dict, prefix.removesuffix("."), errors)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)


class LinearWeight(KroneckerWeight, KroneckerLinear):
    """The matrix of a linear map, or a stack of them."""

    def set_nearest(self, W: Tensor) -> None:
        """Set the factors to the nearest ones of ``W``, as the owner stores it."""
        super().set_nearest(W.mT if self.turned else W)


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


def adopt(owner: nn.Module, name: str, layer: FactoredLayer, transposed: bool) -> None:
    """Let ``owner.name`` be ``W`` of ``layer``, transposed ``[..., n, m]`` where the owner stores it so."""
    kind = _WEIGHTS[type(layer)]
    weight = kind.__new__(kind)
    vars(weight).update(vars(layer), turned=transposed)
    delattr(owner, name)
    vars(owner).get(GRIDS, {}).pop(name, None)
    owner.add_module(name, weight.train(owner.training))


def release(owner: nn.Module, name: str, W: Tensor) -> None:
    """Make ``owner.name`` a parameter again: ``W [..., m, n]`` (or an unrolled kernel), and remember its block grid."""
    weight = cast(Any, owner._modules.pop(name))
    convolution = weight.view().convolution
    if convolution is not None:
        W = W.unflatten(-1, (-1, *convolution.kernel))
    value = W.detach().mT.contiguous() if weight.turned else W.detach().clone()
    owner.register_parameter(name, nn.Parameter(value, requires_grad=W.requires_grad))
    vars(owner).setdefault(GRIDS, {})[name] = weight.grid, weight.turned, convolution is not None


def factored_weights(owner: nn.Module) -> dict[str, FactoredLayer]:
    """The factors behind an owner's weights, by the names of these."""
    held = ((name, child) for name, child in owner._modules.items() if isinstance(child, KroneckerWeight))
    return {name: cast(FactoredLayer, child) for name, child in held}
