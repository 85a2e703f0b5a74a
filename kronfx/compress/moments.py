"""What a linear map gets and what becomes of its outputs, as sums over the rows of the calibration batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx.layers import Convolution
from kronfx.records import KroneckerShape

ROUNDING = 4  # times sqrt(n) eps: what the norm of the rounding errors of n x n sums stays below


@dataclass(eq=False, slots=True)
class Moments:
    """Sums over the rows ``x [n]`` that one map got, and over the gradients ``g [m]`` of its outputs, in float64.

    ``8 n^2 + 8 m m2`` bytes: ``xx = sum x x^T [n, n]``, ``x = sum x [n]``, and of ``sum g g^T`` the blocks of the
    diagonal, ``gg [m1, m2, m2]``. Products are taken in the dtype of ``x``, float32 at least.
    """

    rows: int
    x: Tensor
    xx: Tensor
    gg: Tensor
    eps: float = 0.0  # of the type that products were taken in

    @classmethod
    def none(cls, n: int, grid: KroneckerShape) -> Moments:
        """Of no row."""
        sizes = (n,), (n, n), (grid.m1, grid.m2, grid.m2)
        x, xx, gg = (torch.zeros(size, dtype=torch.float64) for size in sizes)
        return cls(0, x, xx, gg)

    @staticmethod
    def memory(n: int, grid: KroneckerShape) -> int:
        """Bytes that they take."""
        return 8 * (n * (n + 1) + grid.m * grid.m2)

    def take(self, x: Tensor) -> None:
        """Rows ``x [N, n]``."""
        x = wide(x)
        self.rows += len(x)
        self.eps = max(self.eps, torch.finfo(x.dtype).eps)
        self.x, self.xx = added(self.x, x.sum(0)), added(self.xx, x.mT @ x)

    def take_gradients(self, g: Tensor) -> None:
        """Rows ``g [N, m]``."""
        m1, m2, _ = self.gg.shape
        g = F.pad(wide(g), (0, m1 * m2 - g.shape[1])).unflatten(1, (m1, m2)).transpose(0, 1)
        self.gg = added(self.gg, g.mT @ g)

    @property
    def mean(self) -> Tensor:
        """``mu [n] = E[x]``."""
        return self.x / max(self.rows, 1)

    def second(self, centred: bool) -> Tensor:
        """``H [n, n] = E[x x^T]``, without the mean where a bias takes that: ``H - mu mu^T``.

        Of inputs that never vary the difference is rounding, which need not be positive: as much is added to it.
        """
        H = self.xx / max(self.rows, 1)
        if centred:
            rounding = ROUNDING * math.sqrt(len(H)) * self.eps * float(H.diagonal().mean())
            H.addr_(self.mean, self.mean, alpha=-1).diagonal().add_(rounding)
        return H

    @property
    def is_finite(self) -> bool:
        """Whether no NaN and no infinity went in."""
        return bool(torch.isfinite(self.xx.sum()) & torch.isfinite(self.gg.sum()))


def added(total: Tensor, values: Tensor) -> Tensor:
    """A sum in float64 and what comes to it, where the values are; in place if it lies there."""
    values = values.cpu() if values.device.type == "mps" else values
    return total.to(values.device).add_(values)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.detach().to(torch.promote_types(x.dtype, torch.float32))


def patches(x: Tensor, convolution: Convolution) -> Tensor:
    """``x [N, channels, ...] -> [rows, channels taps]``: what the unrolled kernel is multiplied with, tap by tap."""
    kernel, dims = convolution.kernel, len(convolution.kernel)
    x = F.pad(x, _around(convolution))
    for axis, (taps, stride, dilation) in enumerate(zip(kernel, convolution.stride, convolution.dilation)):
        x = x.unfold(axis + 2, (taps - 1) * dilation + 1, stride)[..., ::dilation]
    order = (0, *range(2, dims + 2), 1, *range(dims + 2, 2 * dims + 2))
    return x.permute(order).reshape(-1, x.shape[1] * math.prod(kernel))


def _around(convolution: Convolution) -> list[int]:
    """What is padded on both sides of every axis, the last axis first, as ``F.pad`` takes it."""
    padding = convolution.padding
    if isinstance(padding, str):
        whole = [d * (k - 1) if padding == "same" else 0 for k, d in zip(convolution.kernel, convolution.dilation)]
        return [side for total in whole[::-1] for side in (total // 2, total - total // 2)]
    return [side for size in padding[::-1] for side in (size, size)]
