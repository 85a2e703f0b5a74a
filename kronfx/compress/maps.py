"""The linear maps of a model that are to be compressed: where they are stored, and as what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kronfx.layers import Convolution
from kronfx.layers.folded import GRIDS
from kronfx.records import KroneckerShape, Site


@dataclass(frozen=True, eq=False, slots=True)
class Map:
    """The linear map of a site: the parameter that ``owner`` has at ``target``, cut by ``grid``.

    ``transposed`` where it is stored ``[..., n, m]``; ``convolution``: what kind of one it is, if it is one.
    """

    site: Site
    owner: nn.Module
    target: str
    grid: KroneckerShape
    transposed: bool = False
    convolution: Convolution | None = None

    @property
    def parameter(self) -> nn.Parameter:
        """The weight as it is stored."""
        holder, name = self._place
        return holder.get_parameter(name)

    @property
    def weights(self) -> Tensor:
        """``W [stack, m, n]`` in float64; a kernel unrolled."""
        weight = self.parameter.detach()
        W = weight.flatten(1) if self.convolution is not None else weight.mT if self.transposed else weight
        return precise(W.reshape(self.site.stack, self.site.m, self.site.n))

    @torch.no_grad()
    def write(self, W: Tensor) -> None:
        """Store ``W [stack, m, n]``, and remember its grid as a folded weight does (``layers.folded``)."""
        holder, name = self._place
        parameter = holder.get_parameter(name)
        turned = W.mT if self.transposed else W
        parameter.copy_(turned.reshape(parameter.shape))
        vars(holder).setdefault(GRIDS, {})[name] = self.grid, self.transposed, self.convolution is not None

    @property
    def _place(self) -> tuple[nn.Module, str]:
        path, _, name = self.target.rpartition(".")
        return self.owner.get_submodule(path), name


def precise(values: Tensor) -> Tensor:
    """In float64, on a device that has it."""
    return (values.cpu() if values.device.type == "mps" else values).double()


@torch.no_grad()
def add_to(bias: nn.Parameter, before: Tensor, moved: Tensor) -> None:
    """``bias = before + moved``, rounded once."""
    bias.copy_(before.to(moved.device) + moved)
