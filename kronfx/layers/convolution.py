"""The factored and the folded convolution: the linear map of its unrolled patches, kernel taps inside the block."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronfx import kron
from kronfx.layers.linear import FoldedWeight, KroneckerLinear
from kronfx.layers.precision import full_precision
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
        return self.in_features // math.prod(self.convolution.kernel)

    @property
    def out_channels(self) -> int:
        """``m``."""
        return self.grid.m

    @property
    def weight(self) -> Tensor:
        """``W [m, channels, *kernel]``, materialized now."""
        with full_precision():
            return computed(self._kernel())

    def _kernel(self) -> Tensor:
        W: Tensor = self.factors.materialize().unflatten(-1, (-1, *self.convolution.kernel))
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


class BlockSparseConv(nn.modules.conv._ConvNd):
    """A folded convolution: an ordinary ``nn.Conv1d/2d/3d`` that knows the block grid of its unrolled weight."""

    shape: KroneckerShape

    @property
    def folded(self) -> FoldedWeight:
        """The unrolled weight ``[m, channels taps]`` on its block grid."""
        return FoldedWeight(self.weight.detach().flatten(1), self.shape)


class BlockSparseConv1d(BlockSparseConv, nn.Conv1d):
    """A folded ``nn.Conv1d``."""


class BlockSparseConv2d(BlockSparseConv, nn.Conv2d):
    """A folded ``nn.Conv2d``."""


class BlockSparseConv3d(BlockSparseConv, nn.Conv3d):
    """A folded ``nn.Conv3d``."""


_BUILD: dict[int, Callable[..., BlockSparseConv]] = {1: BlockSparseConv1d, 2: BlockSparseConv2d, 3: BlockSparseConv3d}


def block_sparse_conv(
    W: Tensor, bias: Tensor | None, shape: KroneckerShape, convolution: Convolution
) -> BlockSparseConv:
    """The convolution of the unrolled ``W [m, channels taps]``, as a module that knows its block grid."""
    c, weight = convolution, W.unflatten(-1, (-1, *convolution.kernel))
    options = {"stride": c.stride, "padding": c.padding, "dilation": c.dilation, "bias": bias is not None}
    layer = _BUILD[len(c.kernel)](weight.shape[1], shape.m, c.kernel, **options, device="meta")
    layer.shape = shape
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=W.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return layer
