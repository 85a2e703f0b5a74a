"""An evaluation whose derivative is written by hand, because it does better than to keep what autograd would keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kronfx.layers.factors import Factors
from kronfx.layers.precision import eager

Gradients = tuple[Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """``x [N, n], S, A, B -> x W^T [N, m]``, three times: in ``plain`` operations, which anybody may differentiate,
    compile or export; ``forward`` by hand; and the ``gradients`` of ``x, S, A, B`` for ``dy [N, m]``, those ``needed``.
    """

    plain: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    forward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    gradients: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, tuple[bool, ...]], Gradients]


def is_unwatched(x: Tensor, factors: Factors, bias: Tensor | None) -> bool:
    """Whether nobody looks on: compilers, tracers and tensors of other people's classes need plain operations, and so
    do half types, whose sums over pieces would be rounded at every one.
    """
    tensors = [x, factors.S, factors.A, factors.B, *([] if bias is None else [bias])]
    if not eager(*tensors):
        return False
    kinds = {(tensor.dtype, tensor.device.type) for tensor in tensors}
    is_plain = kinds in ({(torch.float32, "cpu")}, {(torch.float64, "cpu")}) and not x.is_nested
    return is_plain and not torch.is_autocast_enabled("cpu")


def applied(kernel: Kernel, x: Tensor, factors: Factors, bias: Tensor | None) -> Tensor:
    """``x [..., n] -> x W^T + bias [..., m]``; of a padded ``W``, what is beyond it is sliced off."""
    shape, features = factors.shape, factors.features
    m, n = features or (shape.m, shape.n)
    rows = x.reshape(-1, n) if features is None else F.pad(x.reshape(-1, n), (0, shape.n - n))
    apply: Any = ByHand.apply
    y: Tensor = apply(kernel, rows, factors.S, factors.A, factors.B)
    y = y if features is None else y[:, :m].contiguous()
    if bias is not None:
        # Nobody else has y. Under a transform the bias may have an axis that y has not.
        y = y + bias if torch._C._are_functorch_transforms_active() else y.add_(bias)
    return y.reshape(*x.shape[:-1], m)


class ByHand(torch.autograd.Function):
    """A kernel as a function of torch's. What differentiates twice, forward or under a transform is given the plain
    operations."""

    @staticmethod
    def forward(kernel: Kernel, x: Tensor, S: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return kernel.forward(x, S, A, B)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        ctx.kernel, *values = inputs
        ctx.save_for_backward(*values)
        ctx.save_for_forward(*values)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Gradients:
        if torch.is_grad_enabled():
            pulled: Any = torch.func.vjp(ctx.kernel.plain, *ctx.saved_tensors)[1]
            return None, *pulled(dy)
        return None, *ctx.kernel.gradients(*ctx.saved_tensors, dy, ctx.needs_input_grad[1:])

    @staticmethod
    def jvp(ctx: Any, _kernel: None, *tangents: Tensor | None) -> Tensor:
        values = ctx.saved_tensors  # the product is linear in each of them
        swapped = ((*values[:i], t, *values[i + 1 :]) for i, t in enumerate(tangents) if t is not None)
        y: Tensor = reduce(add, (ctx.kernel.plain(*each) for each in swapped))
        return y

    @staticmethod
    def vmap(_info: Any, in_dims: tuple[int | None, ...], kernel: Kernel, *inputs: Tensor) -> tuple[Tensor, int]:
        return torch.func.vmap(kernel.plain, in_dims[1:])(*inputs), 0
