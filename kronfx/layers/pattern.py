"""Which blocks of a ``W`` survive, as the tables that products of these blocks read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kronfx.layers.scratch import Scratch
from kronfx.records import KroneckerShape


@dataclass(frozen=True, eq=False, slots=True)
class Line:
    """The survivors of the row of blocks (or column) of this ``number``: of all survivors, ``start`` to ``stop``
    (excluded), and the columns ``[k]`` (or rows) that they lie in.
    """

    number: int
    start: int
    stop: int
    places: Tensor
    only: int | None  # the place of a single one

    def taken(self, grid: Tensor, scratch: Scratch) -> Tensor:
        """Of ``grid [N, places, width]`` those places, as ``[N, k width]``: a view, or a copy in ``scratch``."""
        if self.only is not None:
            return grid[:, self.only]
        target = scratch.take("taken", len(grid), self.stop - self.start, grid.shape[-1], like=grid)
        return torch.index_select(grid, 1, self.places, out=target).flatten(1)

    def of(self, values: Tensor) -> Tensor:
        """Its own of ``values [nnz, height, width]``, one below the other: ``[k height, width]``."""
        return values[self.start : self.stop].flatten(0, 1)


@dataclass(frozen=True, eq=False)
class Pattern:
    """The survivors of a grid: their ``rows [nnz]``, in order, and ``columns [nnz]``.

    Made once, on the CPU; whoever holds one asks :meth:`fits` before use.
    """

    shape: KroneckerShape
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, S: Tensor, shape: KroneckerShape) -> Pattern:
        """That of the entries of ``S [m1, n1]`` that are not zero."""
        rows, columns = S.detach().nonzero(as_tuple=True)
        return cls(shape, rows, columns)

    def fits(self, S: Tensor) -> bool:
        """Whether it is still that of ``S``: no zero has come, none has gone."""
        return torch.equal(S.ne(0), self.mask)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def share(self) -> float:
        """Of the blocks, how many survive."""
        return len(self) / self.shape.blocks

    @cached_property
    def mask(self) -> Tensor:
        """``[m1, n1]`` booleans: which blocks survive."""
        mask = torch.zeros(self.shape.m1, self.shape.n1, dtype=torch.bool)
        mask[self.rows, self.columns] = True
        return mask

    @cached_property
    def flat(self) -> Tensor:
        """``[nnz]``: their places among the ``m1 n1`` blocks."""
        return self.rows * self.shape.n1 + self.columns

    @cached_property
    def by_column(self) -> Tensor:
        """``[nnz]``: all of them column by column."""
        return torch.argsort(self.columns, stable=True)

    @cached_property
    def by_row(self) -> Tensor:
        """The way back from :attr:`by_column`."""
        return torch.argsort(self.by_column)

    @cached_property
    def row_lines(self) -> list[Line]:
        """Of each row of blocks, empty ones too, its survivors' columns; the longest first."""
        return _lines(self.rows, self.columns, self.shape.m1)

    @cached_property
    def column_lines(self) -> list[Line]:
        """Of each column of blocks, empty ones too, its survivors' rows, counted along :attr:`by_column`; also."""
        return _lines(self.columns[self.by_column], self.rows[self.by_column], self.shape.n1)


def _lines(lines: Tensor, places: Tensor, count: int) -> list[Line]:
    stops = torch.bincount(lines, minlength=count).cumsum(0).tolist()
    bounds = zip([0, *stops[:-1]], stops)
    found = [
        Line(number, a, b, places[a:b], int(places[a]) if b == a + 1 else None) for number, (a, b) in enumerate(bounds)
    ]
    return sorted(found, key=lambda line: line.start - line.stop)
