"""What is known of each layer as node data for model-explorer, which colours an ONNX file's graph by it.

A file a quantity: ``{graph: {"name": ..., "results": {node: {"value": ...}}, "gradient": [...]}}``. A layer's value
stands at one node, so that the sums and means that model-explorer shows of a module are those of its layers.

To add a quantity: a row of the table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kronfx import deploy
from kronfx.errors import InspectError, warn
from kronfx.files import PathLike, unwritable, write
from kronfx.page import Sheet
from kronfx.tables import abbreviated

# From white to a blue on which black letters still have a contrast of 7.
GRADIENT = ({"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#56b4e9"})


@dataclass(frozen=True, slots=True)
class Quantity:
    """One figure of a layer, None where it is not known."""

    name: str
    unit: str
    of: Callable[[Sheet], float | None]


def _zero(sheet: Sheet) -> float | None:
    return None if sheet.zero_blocks is None or not sheet.blocks else 100 * sheet.zero_blocks / sheet.blocks


def _seconds(sheet: Sheet, way: str) -> float | None:
    """Of a run, at the most rows that were timed."""
    return max(((lap.rows, lap.seconds) for lap in sheet.laps if lap.way == way), default=(0, None))[1]


def _milliseconds(sheet: Sheet) -> float | None:
    seconds = _seconds(sheet, sheet.runs_as)
    return None if seconds is None else 1e3 * seconds


def _times_faster(sheet: Sheet) -> float | None:
    dense, seconds = _seconds(sheet, "dense"), _seconds(sheet, sheet.runs_as)
    return None if dense is None or not seconds else dense / seconds


QUANTITIES = (
    Quantity("zero blocks", "%", _zero),
    Quantity("bytes", "in the file", lambda sheet: sheet.bytes),
    Quantity("milliseconds", "a run, at the most rows timed", _milliseconds),
    Quantity("times faster", "than dense, at the most rows timed", _times_faster),
    Quantity("error", "1 - energy kept", lambda sheet: None if sheet.energy is None else 1 - sheet.energy),
)


def node_data(path: Path | None, sheets: Sequence[Sheet], folder: PathLike) -> tuple[Path, ...]:
    """Write a file of each quantity that any layer has; returns their paths. Raises InspectError."""
    if path is None:
        needed, remedy = "a report of an ONNX file or an export", "export the model first, and inspect the file"
        raise InspectError("", "a report of what is no file: its nodes have no names yet", needed, remedy)
    places = deploy.places(path, [sheet.site for sheet in sheets])
    lost = [sheet.site for sheet in sheets if sheet.site not in places.nodes]
    if lost:
        warn(f"kronfx: no node of {path.name} is known to be that of {abbreviated(lost)}: no data for it")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        raise unwritable(folder, refused.strerror or str(refused), InspectError) from refused
    written = []
    for quantity in QUANTITIES:
        known = {sheet.site: value for sheet in sheets if (value := quantity.of(sheet)) is not None}
        results = {places.nodes[site]: {"value": value} for site, value in known.items() if site in places.nodes}
        if results:
            data = {"name": f"{quantity.name} ({quantity.unit})", "results": results, "gradient": GRADIENT}
            text = json.dumps({places.graph: data}, indent=1)
            written.append(write(Path(folder) / f"{quantity.name.replace(' ', '_')}.json", text.encode(), InspectError))
    return tuple(written)
