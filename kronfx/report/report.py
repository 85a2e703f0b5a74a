"""What a person looks at: one row a layer, the totals, and every weight left alone with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kronfx.errors import InspectError
from kronfx.files import PathLike
from kronfx.page import Page, write
from kronfx.records import Refusal, refusal_table
from kronfx.report.html import page
from kronfx.tables import percent, render

HEADERS = (
    "layer",
    "state",
    "m x n",
    "blocks",
    "of",
    "rank",
    "runs as",
    "dense",
    "stored",
    "share",
    "zero blocks",
    "energy kept",
    "ms predicted",
    "ms measured",
    "at 90% zero",
)
NOTHING = Page("", "", ())
OPTIONAL = {  # fields, often None
    "energy kept": "energy", "ms predicted": "predicted", "ms measured": "measured", "at 90% zero": "gain",
}  # fmt: skip


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
    def blocks(self) -> int | None:
        """How many blocks the weight has; those of a padded grid reach beyond it."""
        return None if self.block is None else self.stack * -(-self.m // self.block[0]) * -(-self.n // self.block[1])

    def cells(self) -> tuple[object, ...]:
        """The row under ``HEADERS``."""
        grid = of = zero = None
        if self.block is not None:
            grid, of = (
                f"{-(-self.m // self.block[0])}x{-(-self.n // self.block[1])}",
                f"{self.block[0]}x{self.block[1]}",
            )
        if self.zero_blocks is not None and self.blocks is not None:
            zero = f"{self.zero_blocks}/{self.blocks} {percent(self.zero_blocks, self.blocks)}"
        size, share = f"{self.m}x{self.n}", percent(self.stored, self.dense)
        return (
            self.site,
            self.state,
            size,
            grid,
            of,
            self.rank,
            self.runs_as,
            self.dense,
            self.stored,
            share,
            zero,
            None if self.energy is None else percent(self.energy, 1),
            None if self.predicted is None else round(1e3 * self.predicted, 3),
            None if self.measured is None else round(1e3 * self.measured, 3),
            None if self.gain is None else f"{self.gain:.1f}x",
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What ``kronfx.inspect`` found. Printed as text, shown by Jupyter, kept as a dict or an HTML page.

    ``page`` is what the page shows besides: pictures of the values as they were when it was inspected.
    """

    title: str
    layers: tuple[Layer, ...]
    refusals: tuple[Refusal, ...] = ()
    parameters: int | None = None
    bytes: int | None = None
    page: Page = field(default=NOTHING, repr=False, compare=False)

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

    def rows(self) -> Sequence[tuple[object, ...]]:
        """One row a layer, under ``headers()``."""
        shown = [HEADERS.index(header) for header in self.headers()]
        return [tuple(layer.cells()[column] for column in shown) for layer in self.layers]

    def headers(self) -> Sequence[str]:
        """``HEADERS``, without those that no layer has anything to say under."""
        return [header for header in HEADERS if header not in OPTIONAL or self._says(OPTIONAL[header])]

    def _says(self, field: str) -> bool:
        return any(getattr(layer, field) is not None for layer in self.layers)

    def __str__(self) -> str:
        text = render(self.summary(), self.headers(), self.rows()) if self.layers else self.summary()
        return f"{text}\n\n{refusal_table(self.refusals)}" if self.refusals else text

    def print(self) -> None:
        """Print the report."""
        print(self)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, JSON-ready."""
        totals = {"zero_blocks": self.zero_blocks, "blocks": self.blocks}
        layers = [{**asdict(layer), "blocks": layer.blocks} for layer in self.layers]
        data = asdict(replace(self, page=NOTHING))
        del data["page"]
        return {**data, "layers": layers, **totals}

    def to_html(self, path: PathLike) -> Path:
        """Write one self-contained page to look into: the network in order, a table to sort and search, and of each
        layer its block map, factors, products and proof. Returns its path. Raises InspectError."""
        return write(self.page, path, InspectError)

    def _repr_html_(self) -> str:
        return page(self.summary(), self.headers(), self.rows(), self.refusals)
