"""``x W^T`` by products of the surviving blocks only, forward and backward: what is zero costs nothing.

A row of blocks at a time: what its survivors read of ``x`` is put side by side, and multiplied by them in one product,
which writes its part of ``y`` where it belongs. The gradients go a column at a time. Nothing is padded, and nothing is
transposed: ``kronfx/decisions/blocks.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from kronfx.layers.factors import Factors
from kronfx.layers.pattern import Line, Pattern
from kronfx.layers.scratch import Scratch
from kronfx.layers.threads import by_itself, shared_out
from kronfx.records import KroneckerShape

LARGE = 2**28  # multiply-adds of a dense product from which on lines are shared out among threads
Task = Callable[[Sequence[Line], Scratch], None]


def surviving(factors: Factors, pattern: Pattern) -> Tensor:
    """The blocks ``[nnz, m2, n2]`` of a pattern, by one product ``[nnz, r] @ [r, m2 n2]``.

    Gradients reach the coefficients of these blocks only: the others stay zero.
    """
    S, A = factors.S.flatten(), factors.A.flatten(1)
    C = S.index_select(0, pattern.flat) * A.index_select(1, pattern.flat)
    values: Tensor = torch.matmul(C.t(), factors.B.flatten(1)).unflatten(1, pattern.shape.block)
    return values


def by_blocks(x: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """``x [..., n], values [nnz, m2, n2] -> x W^T + bias [..., m]``, of plain tensors on the CPU.

    Under autocast in its dtype, as torch's own products are.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, values, bias = x.to(dtype), values.to(dtype), None if bias is None else bias.to(dtype)
    apply: Any = _Blocks.apply
    y: Tensor = apply(x.reshape(-1, pattern.shape.n).contiguous(), values, bias, pattern)
    return y.reshape(*x.shape[:-1], pattern.shape.m)


def in_one_product(x: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
    """The same by torch's plain operations, for everybody: compilers, tracers, transforms, other devices.

        y[p] [N, m2] = sum_(k in row p) x[col_k] [N, n2] @ values[k]^T [n2, m2]

    All blocks are multiplied in one batched product: ``kronfx/decisions/bsr.md``.
    """
    shape = pattern.shape
    columns = x.unflatten(-1, (shape.n1, shape.n2)).reshape(-1, shape.n1, shape.n2).transpose(0, 1)
    products = torch.bmm(columns.index_select(0, pattern.columns), values.mT)
    # Half types are summed in float32, as torch's products do inside.
    dtype = torch.promote_types(products.dtype, torch.float32)
    sums = torch.zeros(shape.m1, columns.shape[1], shape.m2, device=x.device, dtype=dtype)
    y = sums.index_add(0, pattern.rows, products.to(dtype)).to(products.dtype)
    y = y.transpose(0, 1).reshape(*x.shape[:-1], shape.m)
    return y if bias is None else y + bias.to(y.dtype)


class _Blocks(torch.autograd.Function):
    """``x [N, n], values [nnz, m2, n2] -> x W^T + bias [N, m]``. What differentiates twice or forward is given the
    plain operations."""

    @staticmethod
    def forward(x: Tensor, values: Tensor, bias: Tensor | None, pattern: Pattern) -> Tensor:
        shape, turned = pattern.shape, values.mT.contiguous()
        grid, biases = x.unflatten(1, (shape.n1, shape.n2)), None if bias is None else bias.view(shape.m1, shape.m2)
        y = x.new_empty(len(x), shape.m1, shape.m2)

        def multiply(lines: Sequence[Line], scratch: Scratch) -> None:
            for line in lines:
                taken, place = line.taken(grid, scratch), y[:, line.number]
                if biases is None:
                    torch.mm(taken, line.of(turned), out=place)
                else:
                    torch.addmm(biases[line.number], taken, line.of(turned), out=place)

        _run(x, shape)(multiply, pattern.row_lines)
        return y.flatten(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _output: Tensor) -> None:
        *tensors, ctx.pattern = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, values, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return (*_plain_gradients(x, values, bias, dy, ctx.pattern), None)
        needs_x, needs_values, needs_bias, _ = ctx.needs_input_grad
        found = _gradients(x, values, dy.contiguous(), ctx.pattern, needs_x, needs_values)
        return (*found, dy.sum(0) if needs_bias else None, None)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dvalues: Tensor | None, dbias: Tensor | None, _pattern: None) -> Tensor:
        x, values, _ = ctx.saved_tensors
        parts = [] if dx is None else [in_one_product(dx, values, None, ctx.pattern)]
        parts += [] if dvalues is None else [in_one_product(x, dvalues, None, ctx.pattern)]
        parts += [] if dbias is None else [dbias.expand(len(x), -1)]
        return reduce(add, parts)


def _run(x: Tensor, shape: KroneckerShape) -> Callable[[Task, Sequence[Line]], list[None]]:
    return shared_out if len(x) * shape.m * shape.n >= LARGE else by_itself


def _gradients(
    x: Tensor, values: Tensor, dy: Tensor, pattern: Pattern, needs_x: bool, needs_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Of ``x [N, n]`` and of ``values [nnz, m2, n2]``, where needed."""
    shape, ordered = pattern.shape, values.index_select(0, pattern.by_column)
    grid, inputs = dy.unflatten(1, (shape.m1, shape.m2)), x.unflatten(1, (shape.n1, shape.n2))
    dx = torch.empty_like(inputs) if needs_x else None
    dvalues = torch.empty_like(ordered) if needs_values else None

    def multiply(lines: Sequence[Line], scratch: Scratch) -> None:
        for line in lines:
            taken = line.taken(grid, scratch)
            if dx is not None:
                torch.mm(taken, line.of(ordered), out=dx[:, line.number])
            if dvalues is not None:
                torch.mm(taken.t(), inputs[:, line.number], out=line.of(dvalues))

    _run(x, shape)(multiply, pattern.column_lines)
    return (
        None if dx is None else dx.flatten(1),
        None if dvalues is None else dvalues.index_select(0, pattern.by_row),
    )


def _plain_gradients(
    x: Tensor, values: Tensor, bias: Tensor | None, dy: Tensor, pattern: Pattern
) -> tuple[Tensor | None, ...]:
    """Gradients that have gradients themselves."""
    dx, dvalues = torch.func.vjp(lambda x, values: in_one_product(x, values, None, pattern), x, values)[1](dy)
    return dx, dvalues, None if bias is None else dy.sum(0)
