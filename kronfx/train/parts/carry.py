"""Small steps on parameters of 16 bits: what rounding takes is kept in float32, and added at the next step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kronfx.train.parts.tensors import placed, whole


class Carry:
    """The remainders of some parameters, by names; of float32 parameters there are none.

    Near 1 the numbers of bfloat16 lie 0.0039 and 0.0078 apart. A step of ``lr strength``, 0.001 say, is less than half
    of that: without a remainder it is rounded away, at every step anew, and nothing ever becomes zero.
    """

    def __init__(self) -> None:
        self._rests: dict[str, Tensor] = {}

    def read(self, name: str, parameter: nn.Parameter) -> Tensor:
        """The parameter with its remainder, float32 at least. An optimizer's step in between moves the sum alike."""
        value = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
        rest = self._rests.get(name)
        return value if rest is None else value + placed(rest.to(value.device), value)

    def write(self, name: str, parameter: nn.Parameter, value: Tensor) -> None:
        """Set the parameter to the nearest number that it can hold, and keep the remainder."""
        parameter.copy_(value)
        if parameter.dtype != value.dtype:
            self._rests[name] = value - parameter.detach().to(value.dtype)

    def least_step(self, parameter: nn.Parameter) -> float:
        """The step that moves a typical entry of a 16-bit parameter: half the distance to the next number below; 0 of
        others."""
        if parameter.dtype.itemsize > 2:
            return 0.0
        typical = torch.linalg.vector_norm(parameter.detach(), dtype=torch.float32) / parameter.numel() ** 0.5
        return float(whole(typical)) * torch.finfo(parameter.dtype).eps / 4

    def state(self) -> dict[str, Tensor]:
        """What a resumed training goes on from."""
        return {name: whole(rest).cpu() for name, rest in self._rests.items()}

    def restore(self, name: str, rest: Tensor) -> None:
        """Go on from there."""
        self._rests[name] = rest
