"""Zero blocks that stay zero while a model trains, whatever its optimizer does."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kronfx import kron
from kronfx.layers.find import kronecker_layers
from kronfx.layers.folded import GRIDS, released


class KeptZeros:
    """The zero blocks that a model has now get no gradient, until ``release``; ``restore`` after each step, for an
    optimizer may move an entry without one (momentum, Muon's orthogonal steps).
    """

    def __init__(self, model: nn.Module) -> None:
        self._zeros = dict(_zeros(model))
        self._hooks = [
            parameter.register_hook(lambda gradient, zero=zero: gradient.masked_fill(zero, 0.0))
            for parameter, zero in self._zeros.items()
            if parameter.requires_grad
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """They are exactly zero again."""
        for parameter, zero in self._zeros.items():
            parameter.masked_fill_(zero, 0.0)

    def release(self) -> None:
        """The gradients are the optimizer's again."""
        for hook in self._hooks:
            hook.remove()


def _zeros(model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Every parameter that has blocks, folded or ``S`` of a factored layer, and where they are zero."""
    for layer in kronecker_layers(model).values():
        yield layer.S, layer.S.detach().eq(0)
    for module in model.modules():
        for name, folded in released(module).items():
            shape, transposed, _ = vars(module)[GRIDS][name]
            m, n = folded.weight.shape[-2:]
            zero = kron.over_entries(~kron.block_mask(folded.weight, shape), shape)[..., :m, :n]
            parameter = getattr(module, name)
            if isinstance(parameter, nn.Parameter):
                yield parameter, (zero.mT if transposed else zero).reshape(parameter.shape)
