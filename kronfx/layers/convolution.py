"""The factored and the folded convolution: the linear map of its unrolled patches, kernel taps inside the block."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx import kron
from kronfx.layers.linear import KroneckerLinear
from kronfx.layers.precision import without_autocast
from kronfx.layers.weight import formed_weight
from kronfx.layers.writes import computed
from kronfx.records import Evaluation, KroneckerShape

Sizes = tuple[int, ...]
CONVOLVE: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True, slots=True)
class Convolution:
    """What a convolution is besides its weight: one entry an axis; groups are 1."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes | str
    dilation: Sizes

    @classmethod
    def of(cls, kernel: Sizes, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Convolution:
        """From what torch's functions take: one number for every axis, or one number an axis."""
        dims = len(kernel)
        padded = padding if isinstance(padding, str) else _sizes(padding, dims)
        return cls(kernel, _sizes(stride, dims), padded, _sizes(dilation, dims))

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``x [N, channels, ...] , weight [m, channels, *kernel] -> [N, m, ...]``."""
        return CONVOLVE[len(self.kernel)](x, weight, bias, self.stride, self.padding, self.dilation)


def _sizes(value: Any, dims: int) -> Sizes:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


class KroneckerConv(KroneckerLinear):
    """``y = conv(x, W) + bias`` with ``W [m, channels, *kernel]`` the Kronecker product of tensors (GKPD):
    ``W[p m2 + q, j c2 + k, u] = S[p, j] sum_i A_i[p, j] B_i[q, k, u]``, so ``B_i [m2, n2]`` with ``n2 = c2 taps``.
    """

    groups = 1
    padding_mode = "zeros"
    transposed = False

    def __init__(
        self,
        shape: KroneckerShape,
        rank: int,
        evaluation: Evaluation,
        convolution: Convolution,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(shape, rank, evaluation, bias, device, dtype)
        self.convolution = convolution
        self.kernel_size, self.stride = convolution.kernel, convolution.stride
        self.padding, self.dilation = convolution.padding, convolution.dilation

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        return self.in_features // self.taps

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return math.prod(self.convolution.kernel)

    @property
    def out_channels(self) -> int:
        """``m``."""
        return self.grid.m

    @property
    def weight(self) -> Tensor:
        """``W [m, channels, *kernel]``, materialized now."""
        with without_autocast():
            return computed(self._kernel())

    def _kernel(self) -> Tensor:
        W: Tensor = formed_weight(self.factors).unflatten(-1, (-1, *self.convolution.kernel))
        return W

    def forward(self, x: Tensor) -> Tensor:
        """``x [N, channels, ...] -> [N, m, ...]`` by the chosen evaluation."""
        if self.evaluation == "materialize":
            return self.convolution(x, self._kernel(), self.bias)
        evaluate = kron.conv_a_first if self.evaluation == "a_first" else kron.conv_b_first
        B = self.B.unflatten(-1, (-1, *self.convolution.kernel))
        y = evaluate(x, self.S, self.A, B, self.grid, self.convolution)
        return y if self.bias is None else y + self.bias.to(y.dtype).unflatten(0, (-1, *(1 for _ in self.stride)))

    def extra_repr(self) -> str:
        """The linear layer's, with the convolution."""
        c = self.convolution
        return (
            f"{super().extra_repr()}, kernel={c.kernel}, stride={c.stride}, padding={c.padding}, dilation={c.dilation}"
        )
