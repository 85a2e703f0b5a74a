"""What pruning a trained model did, as a value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kronfx.records.shapes import Refusal
from kronfx.tables import Column, Part, Shown, Table, percent

PRUNED = "kronecker_pruned"  # the attribute of a pruned model that holds it
COLUMNS = (
    Column("layer"), Column("m x n"), Column("of"), Column("blocks", 1, "sum"), Column("zero", 2, "sum"),
    Column("share", 0, "range", ".2%"), Column("energy lost", 0, "range", ".2%"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PrunedLayer:
    """One linear map: how many of its blocks are zero, how many were ``zero_before``, and the share
    ``tr(dW H dW^T) / tr(W H W^T)`` of the energy of its outputs that was lost on the calibration data, each layer by
    itself."""

    site: str
    m: int
    n: int
    block: tuple[int, int]
    blocks: int
    zero_blocks: int
    lost: float
    zero_before: int = 0


@dataclass(frozen=True, slots=True)
class Pruned(Shown):
    """What ``kronfx.prune`` did to a model: ``layers``, and the weights it left alone with their reasons.

    ``weighed_by``: what said how much an output is worth. ``rows``: of calibration data, the most that a map saw.
    """

    target: float | dict[str, float]
    how: str
    shares: str
    weighed_by: str
    rows: int
    layers: tuple[PrunedLayer, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def emptied(self) -> tuple[str, ...]:
        """The maps of which nothing is left: their outputs are constant."""
        return tuple(layer.site for layer in self.layers if layer.zero_blocks == layer.blocks)

    @property
    def ahead(self) -> tuple[str, ...]:
        """The maps that had more zero blocks before than was asked for; all of them or none where the target is one
        for all together. Zero blocks stay zero."""
        if self.shares == "global" and isinstance(self.target, float):
            before, blocks = sum(x.zero_before for x in self.layers), sum(x.blocks for x in self.layers)
            return tuple(x.site for x in self.layers) if before > self.target * blocks + 0.5 else ()
        asked = [self.target[x.site] if isinstance(self.target, dict) else self.target for x in self.layers]
        return tuple(x.site for x, share in zip(self.layers, asked) if x.zero_before > share * x.blocks + 0.5)

    @property
    def how_it_was_done(self) -> str:
        """The choices that were made, and on how much data."""
        target = f"{self.target:g}" if isinstance(self.target, float) else f"{len(self.target)} targets"
        how = f"pruned to {target} (how={self.how!r}, shares={self.shares!r})"
        return f"{how} on {self.rows:,} rows, outputs weighed by {self.weighed_by}"

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer."""
        zero, blocks = sum(layer.zero_blocks for layer in self.layers), sum(layer.blocks for layer in self.layers)
        title = f"{self.how_it_was_done}: {zero:,} of {blocks:,} blocks zero ({percent(zero, blocks)})"
        rows = tuple(
            (x.site, f"{x.m}x{x.n}", f"{x.block[0]}x{x.block[1]}", x.blocks, x.zero_blocks,
             x.zero_blocks / max(1, x.blocks), x.lost)
            for x in self.layers
        )  # fmt: skip
        return [Table(title, COLUMNS, rows)]
