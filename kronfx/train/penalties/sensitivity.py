"""What a block does: by how much the loss feels its scale, averaged over the last steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kronfx.train.parts.factored import FactoredPart

MEMORY = 0.98  # of the mean, per step: it looks back on some 50 batches


class Sensitivity:
    """A running mean of ``(S[p, j] dL/dS[p, j])^2`` for every block.

    ``W`` is linear in ``S[p, j]``, so that ``S dL/dS`` is what the loss of a batch loses, to first order, when block
    ``(p, j)`` goes; its mean square is the diagonal of the Fisher information in the direction of that cut (optimal
    brain damage, with blocks in the place of weights). It does not change when scale moves between ``S``, ``A`` and
    ``B``, needs no product of its own, and compares blocks of any size, in any layer.
    """

    def __init__(self, parts: Mapping[str, FactoredPart]) -> None:
        self._parts, self._means = parts, dict[str, Tensor]()

    @torch.no_grad()
    def after_step(self) -> None:
        """Right after an optimizer's step, while its gradients are there."""
        for name, part in self._parts.items():
            square = part.slopes().square()
            mean = self._means.get(name)
            self._means[name] = (1 - MEMORY) * square if mean is None else mean.lerp_(square, 1 - MEMORY)

    def of(self, name: str) -> Tensor:
        """``[G]`` of a part; zeros before the first step."""
        return self._means.get(name, torch.zeros(self._parts[name].groups))

    def state(self) -> dict[str, Tensor]:
        """What a resumed training goes on from."""
        return {name: mean.cpu() for name, mean in self._means.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self._means = {name: mean.clone() for name, mean in state.items()}
