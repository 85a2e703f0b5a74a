"""Which weight is meant: a factored layer's own, transposed, cast, some of its rows, some members of its stack."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from kronfx.layers.candidates import FactoredLayer, candidates_of
from kronfx.layers.convolution import Convolution, KroneckerConv
from kronfx.layers.factors import Factors
from kronfx.layers.linear import KroneckerLinear, evaluated
from kronfx.layers.precision import without_autocast
from kronfx.layers.tensorlike import TensorLike, otherwise
from kronfx.layers.weight import formed_weight
from kronfx.records import Evaluation

TRANSPOSED: dict[Evaluation, Evaluation] = {"a_first": "b_first", "b_first": "a_first", "materialize": "materialize"}
Rows = tuple[int, int]


@dataclass(frozen=True, eq=False)
class WeightView(TensorLike):
    """``W [..., m, n]`` of a factored layer, or ``W^T`` where ``transposed``; with ``key``, of these members of its
    stack; with ``rows``, from row ``rows[0]`` to before ``rows[1]``; with ``cast``, in another dtype.
    """

    layer: FactoredLayer
    transposed: bool
    key: Any = None
    rows: Rows | None = None
    cast: torch.dtype | None = None

    def view(self) -> WeightView:
        return self

    def __getattr__(self, name: str) -> Any:
        return otherwise(self, name)

    @property
    def first(self) -> KroneckerLinear:
        """The layer, or the first of several candidates: they agree on everything but their blocks."""
        return candidates_of(self.layer)[0]

    @property
    def convolution(self) -> Convolution | None:
        """What convolution ``W [m, channels, *kernel]`` is the kernel of, if it is one."""
        return self.first.convolution if isinstance(self.first, KroneckerConv) else None

    @property
    def is_whole(self) -> bool:
        """Whether it is the layer's own ``W^T``, so that ``x @ W^T`` is a call of the layer."""
        return self.transposed and self.key is None and self.rows is None and self.cast is None

    def size_of(self) -> torch.Size:
        """The shape of the tensor it stands for."""
        if self.convolution is not None:
            kernel = self.convolution.kernel
            return torch.Size((self.first.out_features, self.first.in_features // math.prod(kernel), *kernel))
        S = self.first.S
        stack = S.shape[:-2] if self.key is None else S[self.key].shape[:-2]
        m = self.first.out_features if self.rows is None else self.rows[1] - self.rows[0]
        n = self.first.in_features
        return torch.Size((*stack, n, m) if self.transposed else (*stack, m, n))

    def along_rows(self, dim: int) -> bool:
        """Whether this axis of the tensor counts the rows of a single ``W``."""
        return self.convolution is None and len(self.shape) == 2 and dim % 2 == int(self.transposed)

    def rows_of(self, start: int, stop: int) -> WeightView:
        """These of its rows."""
        offset = 0 if self.rows is None else self.rows[0]
        return replace(self, rows=(offset + start, offset + stop))

    def selected(self, key: Any) -> WeightView | None:
        """``self[key]`` where that is members of a stack, or whole rows; else None."""
        if self.convolution is not None or (self.rows is not None and len(self.shape) != 2):
            return None
        if len(self.shape) == 3 and self.key is None and _is_member(key):
            return replace(self, key=key)
        if isinstance(key, slice) and key.step in (None, 1) and self.along_rows(0):
            start, stop, _ = key.indices(self.shape[0])
            return self.rows_of(start, max(start, stop))
        return None

    def parts(self) -> list[Factors]:
        """The factors of every candidate: of the members, and in the dtype, that this is of."""
        return [self._part(layer.factors) for layer in candidates_of(self.layer)]

    def _part(self, factors: Factors) -> Factors:
        S, A, B = factors.S, factors.A, factors.B
        if self.key is not None:
            S, A, B = S[self.key], A[self.key], B[self.key]
        if self.cast is not None:
            S, A, B = S.to(self.cast), A.to(self.cast), B.to(self.cast)
        return Factors(S, A, B, factors.features)

    def materialized(self) -> Tensor:
        """The tensor it stands for, rounded once, as a cast of the whole is."""
        parts = replace(self, cast=None).parts()
        with without_autocast():
            W: Tensor = reduce(add, (formed_weight(factors) for factors in parts))
        W = W if self.cast is None else W.to(self.cast)
        W = W if self.rows is None else W[..., self.rows[0] : self.rows[1], :]
        if self.convolution is not None:
            return W.unflatten(-1, (-1, *self.convolution.kernel))  # type: ignore[no-any-return]
        return W.mT if self.transposed else W

    def product(self, x: Any) -> Any:
        """``x @ self`` by the factors; None where only ``W`` will do."""
        stack = len(self.shape) - 2
        if self.convolution is not None or (stack and (x.dim() != stack + 2 or x.shape[:stack] != self.shape[:stack])):
            return None
        if self.is_whole:
            return self.layer(x)
        layers = candidates_of(self.layer)
        return reduce(add, (self._applied(x, factors, layer) for factors, layer in zip(self.parts(), layers)))

    def _applied(self, x: Any, factors: Factors, layer: KroneckerLinear) -> Any:
        grid, rank, evaluation, stacked = layer.grid, layer.rank, layer.evaluation, len(self.shape) > 2
        if not self.transposed:
            whole = x if self.rows is None else torch.nn.functional.pad(x, self._beside())
            return evaluated(whole, factors.transposed, grid.T, rank, TRANSPOSED[evaluation], stacked)
        if self.rows is None:
            return evaluated(x, factors, grid, rank, evaluation, stacked)
        start, stop = self.rows
        first, last = start // grid.m2, -(-stop // grid.m2)
        cut = Factors(factors.S[first:last], factors.A[:, first:last], factors.B, None)
        if factors.features is not None:
            cut = replace(cut, features=((last - first) * grid.m2, factors.features[1]))
        y = evaluated(x, cut, replace(grid, m1=last - first), rank, evaluation)
        return y[..., start - first * grid.m2 : stop - first * grid.m2].contiguous()

    def _beside(self) -> Rows:
        """How many rows of ``W`` come before, and after."""
        start, stop = self.rows or (0, self.first.out_features)
        return start, self.first.out_features - stop


def _is_member(key: Any) -> bool:
    """Whether it picks members of a stack, with their two axes untouched."""
    if isinstance(key, Tensor):
        return key.dim() <= 1 and not key.is_floating_point() and key.dtype != torch.bool
    return isinstance(key, (int, slice)) and not isinstance(key, bool)
