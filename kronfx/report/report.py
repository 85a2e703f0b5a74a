"""What a person looks at: one row a layer, the totals, and every weight left alone with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kronfx.deploy import Forecast
from kronfx.errors import InspectError
from kronfx.files import PathLike
from kronfx.page import Page, write
from kronfx.records import KroneckerShape, Refusal, refusal_table
from kronfx.report.node_data import node_data
from kronfx.tables import Column, Part, Row, Share, Shown, Table, percent

COLUMNS = (
    Column("layer"), Column("state", 2), Column("m x n"), Column("blocks", 10), Column("of", 11), Column("rank", 9),
    Column("runs as", 5), Column("dense", 1, "sum"), Column("stored", 4, "sum"), Column("share", 8, "sum"),
    Column("zero blocks", 3, "sum"), Column("zero", 12, "range", ".2%"), Column("energy kept", 13, "range", ".2%"),
    Column("ms predicted", 6, "sum", ",.3f"), Column("ms measured", 7, "sum", ",.3f"),
    Column("at 90% zero", 14),
)  # fmt: skip
NOTHING = Page("", "", ())


@dataclass(frozen=True, slots=True)
class Layer:
    """One linear map: what it is now (``planned``, ``factored``, ``folded``, ``dense`` or ``onnx``), its block grid and
    rank where it has them, how it runs, the entries of the dense weight, the entries stored now, the exactly-zero
    blocks of its ``W``, the share of the energy kept (by its factors after ``init="nearest"``, in its outputs on the
    calibration data after ``kronfx.prune``), and the seconds of a training step as the plan ``predicted`` and
    ``kronfx.tune`` ``measured`` them, and how many times as fast as dense the file is expected to run
    the layer with one block in ten left (``gain``): the more, the taller the blocks."""

    site: str
    state: str
    m: int
    n: int
    block: tuple[int, int] | None = None
    rank: int | None = None
    runs_as: str = "linear"
    stored: int = 0
    zero_blocks: int | None = None
    stack: int = 1
    energy: float | None = None
    predicted: float | None = None
    measured: float | None = None
    gain: float | None = None

    @property
    def dense(self) -> int:
        """Entries of the dense weight, a stack's all together."""
        return self.stack * self.m * self.n

    @property
    def grid(self) -> KroneckerShape | None:
        """The blocks; the last ones of a padded grid reach beyond the weight."""
        return None if self.block is None else KroneckerShape.covering(self.m, self.n, self.block)

    @property
    def blocks(self) -> int | None:
        """How many blocks the weight has."""
        return None if self.grid is None else self.stack * self.grid.blocks

    def cells(self) -> Row:
        """The row under ``COLUMNS``."""
        grid = of = zero = None
        if self.grid is not None:
            grid, of = f"{self.grid.m1}x{self.grid.n1}", f"{self.grid.m2}x{self.grid.n2}"
        if self.zero_blocks is not None and self.blocks:
            zero = self.zero_blocks / self.blocks
        return (
            self.site,
            self.state,
            f"{self.m}x{self.n}",
            grid,
            of,
            self.rank,
            self.runs_as,
            self.dense,
            self.stored,
            Share(self.stored, self.dense),
            self.zero_blocks if zero is not None else None,
            zero,
            self.energy,
            None if self.predicted is None else 1e3 * self.predicted,
            None if self.measured is None else 1e3 * self.measured,
            None if self.gain is None else f"{self.gain:.1f}x",
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What it takes a look at values to know: a ``page``, and the ``forecast`` of a file."""

    page: Page = NOTHING
    forecast: Forecast | None = None

    def __call__(self) -> Look:
        """Where the look was taken already."""
        return self


@dataclass(frozen=True, slots=True)
class Report(Shown):
    """What ``kronfx.inspect`` found. Printed as text, shown by notebooks, kept as a dict or an HTML page.

    ``look`` answers what the page shows besides: pictures of the values as they were when it was inspected; of a
    ``file`` that holds ONNX, as they are when they are asked for first.
    """

    title: str
    layers: tuple[Layer, ...]
    refusals: tuple[Refusal, ...] = ()
    parameters: int | None = None
    bytes: int | None = None
    look: Callable[[], Look] = field(default=Look(), repr=False, compare=False)
    file: Path | None = field(default=None, repr=False, compare=False)

    @property
    def page(self) -> Page:
        """All that the page shows."""
        return self.look().page

    @property
    def forecast(self) -> Forecast | None:
        """What would become of an ONNX file, where kronfx can look into its weights."""
        return self.look().forecast

    @property
    def zero_blocks(self) -> int:
        """Exactly-zero blocks over all layers that count them."""
        return sum(layer.zero_blocks or 0 for layer in self.layers)

    @property
    def blocks(self) -> int:
        """Blocks over the same layers."""
        return sum(layer.blocks or 0 for layer in self.layers if layer.zero_blocks is not None)

    def summary(self) -> str:
        """The title line: what it is and its totals."""
        parts = [f"{self.title}: {len(self.layers)} linear maps"]
        if self.parameters is not None:
            parts.append(f"{self.parameters:,} trainable parameters")
        if self.bytes is not None:
            parts.append(f"{self.bytes:,} bytes")
        if self.blocks:
            parts.append(
                f"{self.zero_blocks} of {self.blocks} blocks exactly zero ({percent(self.zero_blocks, self.blocks)})"
            )
        return ", ".join(parts)

    def table(self) -> Table:
        """One row a layer, under what any layer has something to say of."""
        return Table(self.summary(), COLUMNS, tuple(layer.cells() for layer in self.layers)).said()

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer, and what is left alone."""
        yield self.table() if self.layers else self.summary()
        if self.refusals:
            yield refusal_table(self.refusals)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, JSON-ready."""
        totals = {"zero_blocks": self.zero_blocks, "blocks": self.blocks}
        layers = [{**asdict(layer), "blocks": layer.blocks} for layer in self.layers]
        data = asdict(replace(self, look=Look(), file=None))
        del data["look"], data["file"]
        return {**data, "layers": layers, **totals}

    def to_html(self, path: PathLike) -> Path:
        """Write one self-contained page to look into: the network in order, a table to sort and search, and of each
        layer its block map, factors, products and proof. Returns its path. Raises InspectError."""
        return write(self.page, path, InspectError)

    def to_model_explorer(self, folder: PathLike) -> tuple[Path, ...]:
        """Write what is known of each layer of an ONNX file, or of an export, as node data for Model Explorer: a JSON
        file a quantity (``zero_blocks.json``, ``bytes.json``, ``milliseconds.json``, ``times_faster.json``,
        ``error.json``), those that any layer has. Returns their paths. Raises InspectError."""
        return node_data(self.file, self.page.sheets, folder)
