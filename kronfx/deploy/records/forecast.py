"""What an ONNX file would gain, before anything is written: a value to print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kronfx.deploy.records.report import ExportedLayer, bare
from kronfx.tables import Column, Part, Row, Share, Shown, Table

# The blocks that are looked for, (m2, n2): square ones, and tall ones, which run faster for their area.
GRIDS = ((4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (64, 16), (128, 8), (128, 32))
COLUMNS = (
    Column("weight"), Column("m x n", 9), Column("zeros", 10, "sum"),
    *(Column(f"{m2}x{n2}", len(GRIDS) - place, "sum") for place, (m2, n2) in enumerate(GRIDS)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counted:
    """How many blocks of one weight ``W [m, n]`` are exactly zero at each of ``GRIDS``; None where it is no such grid.

    ``zeros`` is the share of its entries.
    """

    name: str
    m: int
    n: int
    zeros: float
    zero_blocks: tuple[int | None, ...]

    def blocks(self, grid: int) -> int:
        """How many blocks it has at ``GRIDS[grid]``."""
        m2, n2 = GRIDS[grid]
        return self.m * self.n // (m2 * n2)


@dataclass(frozen=True, slots=True)
class Forecast(Shown):
    """What ``kronfx.sparsify_onnx`` can be expected to make of a file, by its cost model at so many ``rows``.

    ``weights`` are those that it could run or store sparse, counted; ``layers`` what would become of each. A file that
    kronfx wrote is ``ours``. ``bytes`` is the file's size, its external data included.
    """

    path: str
    bytes: int
    ours: bool
    rows: tuple[int, ...]
    weights: tuple[Counted, ...]
    layers: tuple[ExportedLayer, ...]

    @property
    def faster(self) -> int:
        """How many products would run on their surviving blocks only."""
        return sum(layer.lowering == "blocks" for layer in self.layers)

    @property
    def saved(self) -> int:
        """Bytes that would not be stored."""
        return sum(layer.dense_bytes - layer.bytes for layer in self.layers)

    @property
    def verdict(self) -> str:
        """Whether the file would gain, in a sentence."""
        if self.ours:
            return "kronfx wrote this file: what its zero blocks give is in it already"
        rows = " and ".join(map(str, self.rows))
        sizes = f"about {self.saved / 1e6:.3g} of {self.bytes / 1e6:.3g} MB would not be stored"
        if self.faster:
            products = f"{self.faster} of {len(self.layers)} linear maps would run on their surviving blocks only"
            return f"it would gain: by the cost model at {rows} rows {products}, {sizes}; kronfx sparsify times it"
        if self.saved:
            return f"it would get smaller, not faster: {sizes}; at {rows} rows the cost model runs every map dense"
        return "it would not gain: no weight has enough blocks of zeros; make some with kronfx.prune, then export anew"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        shown = {"grids": GRIDS, "faster": self.faster, "saved": self.saved, "verdict": self.verdict}
        return {**bare(self, self.layers), **shown}

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a weight, those of all together, and what would come of it."""
        if not self.weights:
            yield f"{self.path}: {self.bytes:,} bytes, no weight that kronfx could run or store sparse"
            return
        yield f"{self.path}: {self.bytes:,} bytes"
        yield Table(
            "blocks that are exactly zero, by their shape", COLUMNS, tuple(map(_cells, self.weights)), totals=True
        )
        yield self.verdict


def _cells(weight: Counted) -> Row:
    counts = enumerate(weight.zero_blocks)
    shares = (None if zero is None else Share(zero, weight.blocks(grid)) for grid, zero in counts)
    entries = weight.m * weight.n
    return weight.name, f"{weight.m}x{weight.n}", Share(weight.zeros * entries, entries), *shares
