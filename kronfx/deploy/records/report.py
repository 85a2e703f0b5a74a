"""What the export did and what an ONNX file holds: frozen, printable, JSON-ready values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from kronfx.deploy.records.page import page_of_export
from kronfx.deploy.records.timings import Timings
from kronfx.errors import InspectError
from kronfx.files import PathLike
from kronfx.page import BlockMap, Lap, write
from kronfx.records import EVALUATIONS, Evaluated, Lowering
from kronfx.tables import Column, Part, Row, Share, Shown, Table, abbreviated

RECORD_KEY = "kronfx"
RECORD_VERSION = 1
COLUMNS = (
    Column("layer"), Column("m x n"), Column("block", 2), Column("lowering"), Column("zero blocks", 4, "range", ".2%"),
    Column("dense bytes", 1, "sum"), Column("bytes", 5, "sum"), Column("share", 3, "sum"),
)  # fmt: skip
LEFT = Column("weight"), Column("m x n"), Column("block", 1), Column("zero blocks", 2, "range", ".2%"), Column("why")


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    """One linear map ``W [m, n]`` in the file.

    ``block`` is ``(m2, n2)``, or None where the file knows no block grid; ``zero_blocks`` of the ``blocks``
    blocks of ``W`` are exactly zero. ``dense_bytes`` is the size of the dense ``W``, ``bytes`` what the file
    stores for it (0 where the layer shares what an earlier one stores), both without the bias. ``why`` says why it runs
    so and not the other way, ``laps`` what each way took that was timed, ``map`` shows the blocks: for people, and no
    part of the record in the file, nor of what makes layers equal. ``factored`` is what one that runs as ``factors``
    evaluates.
    """

    site: str
    m: int
    n: int
    block: tuple[int, int] | None
    lowering: Lowering
    zero_blocks: int
    blocks: int
    dense_bytes: int
    bytes: int
    why: str = field(default="", compare=False)
    laps: tuple[Lap, ...] = field(default=(), compare=False, repr=False)
    map: BlockMap | None = field(default=None, compare=False, repr=False)
    factored: Evaluated | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class LeftWeight:
    """A constant with zero blocks that no layer took, seen as a matrix of ``m x n`` entries, and ``why``.

    ``zero_blocks`` of its ``blocks`` blocks, of ``block`` entries each, are exactly zero.
    """

    name: str
    m: int
    n: int
    block: tuple[int, int]
    zero_blocks: int
    blocks: int
    why: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Median seconds of one run at a ``batch`` (None: fixed sizes): of the dense file, or the source, and of the one
    written."""

    batch: int | None
    dense: float
    seconds: float


@dataclass(frozen=True, slots=True)
class ExportReport(Shown):
    """What :func:`kronfx.deploy.export` wrote.

    ``bytes`` is the size of the file, its external data included, ``dense_bytes`` that of what it is held against: the
    source as it is on disk, its external data included, or, of an export, the same model with every weight dense.
    ``max_error`` is the largest ``max|y - y_ref| / max(1, max|y_ref|)`` over all outputs and verified ``batch_sizes``,
    ``tolerance`` what it was held to; None where verification was declined.
    ``source`` is the path of that source, None of an export. ``load_seconds``, ``dense_load_seconds`` and ``latency``
    are onnxruntime's, of what it is held against and as written; ``runtime`` says what verified. ``timings`` holds what
    was timed to choose the lowerings, and can be handed to the next export.
    ``left`` are the constants with zero blocks that no layer took, ``notes`` sentences on what else was left alone.
    """

    path: str
    bytes: int
    layers: tuple[ExportedLayer, ...]
    batch_sizes: tuple[int, ...] = ()
    max_error: float | None = None
    tolerance: float | None = None
    load_seconds: float | None = None
    dense_bytes: int | None = None
    dense_load_seconds: float | None = None
    latency: tuple[Latency, ...] = ()
    timings: Timings = field(default_factory=Timings)
    runtime: str = "onnxruntime"
    notes: tuple[str, ...] = ()
    left: tuple[LeftWeight, ...] = ()
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return bare(self, self.layers)

    def to_html(self, path: PathLike) -> Path:
        """Write one self-contained page to look into; returns its path. Raises InspectError."""
        return write(page_of_export(self), path, InspectError)

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer, why it runs so, what was left, and what was verified and gained."""
        table = layer_table(f"export: {self.path}, {self.bytes:,} bytes", self.layers)
        parts = [table, reason_list(self.layers), left_table(self.left), self._verdict(), self._gain(), *self.notes]
        return [part for part in parts if part]

    def _verdict(self) -> str:
        if self.max_error is None or self.tolerance is None:
            return "not verified"
        sizes = f"batch sizes {', '.join(map(str, self.batch_sizes))}" if self.batch_sizes else "the example's sizes"
        load = "" if self.load_seconds is None else f", loads in {1000 * self.load_seconds:.0f} ms"
        return (
            f"verified in {self.runtime}, {sizes}: relative error {self.max_error:.1e} "
            f"(tolerance {self.tolerance:.0e}){load}"
        )

    def _gain(self) -> Table | None:
        if not self.latency:
            return None
        rows = [
            (f"batch {run.batch or 'fixed'}", f"{1000 * run.dense:.2f} ms", f"{1000 * run.seconds:.2f} ms",
             f"{run.dense / run.seconds:.2f}x")
            for run in self.latency
        ]  # fmt: skip
        if self.dense_load_seconds and self.load_seconds:
            dense, load = self.dense_load_seconds, self.load_seconds
            rows.append(("load", f"{1000 * dense:.0f} ms", f"{1000 * load:.0f} ms", f"{dense / load:.2f}x"))
        if self.dense_bytes:
            rows.append(("bytes", f"{self.dense_bytes:,}", f"{self.bytes:,}", f"{self.dense_bytes / self.bytes:.2f}x"))
        rival = "dense" if self.source is None else "source"
        columns = Column(""), Column(rival), Column("this file"), Column("gain")
        return Table(f"against the {rival} file, in onnxruntime", columns, tuple(rows))


@dataclass(frozen=True, slots=True)
class OnnxSummary(Shown):
    """What an ONNX file holds: its size in bytes, who wrote it, its linear maps."""

    path: str
    bytes: int
    producer: str
    layers: tuple[ExportedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return bare(self, self.layers)

    def shown(self) -> Iterable[Part]:
        """What is printed: a row a layer."""
        return [layer_table(f"{self.path}: {self.bytes:,} bytes, written by {self.producer or '?'}", self.layers)]


def bare(record: Any, layers: tuple[ExportedLayer, ...]) -> dict[str, Any]:
    """A record without what is for the page only."""
    data = asdict(replace(record, layers=tuple(replace(layer, laps=(), map=None) for layer in layers)))
    for layer in data["layers"]:
        del layer["laps"], layer["map"]
    return data


def layer_table(title: str, layers: tuple[ExportedLayer, ...]) -> Part:
    """Layers as a table, the total last."""
    if not layers:
        return f"{title}; no linear layer"
    return Table(title, COLUMNS, tuple(map(_cells, layers)), totals=True)


def reason_list(layers: tuple[ExportedLayer, ...]) -> str:
    """Why layers run as they do, a line a reason; empty where nobody gave any."""
    sites: dict[str, list[str]] = {}
    for layer in layers:
        if layer.why:
            sites.setdefault(layer.why, []).append(layer.site)
    lines = [f"  {abbreviated(names)}: {why}" for why, names in sites.items()]
    return "\n".join(["why each runs as it does", *lines]) if lines else ""


def left_table(weights: tuple[LeftWeight, ...]) -> Table | None:
    """Weights that were left as a table; None where there are none."""
    rows = tuple(
        (w.name, f"{w.m}x{w.n}", "x".join(map(str, w.block)), w.zero_blocks / max(1, w.blocks), w.why) for w in weights
    )
    return Table("constants with zero blocks, left as they are", LEFT, rows) if rows else None


def _cells(layer: ExportedLayer) -> Row:
    block = "x".join(map(str, layer.block)) if layer.block else None
    zero = layer.zero_blocks / layer.blocks if layer.blocks else None
    size, share = f"{layer.m}x{layer.n}", Share(layer.bytes, layer.dense_bytes)
    return layer.site, size, block, layer.lowering, zero, layer.dense_bytes, layer.bytes, share


def to_record(layers: tuple[ExportedLayer, ...]) -> str:
    """The layers as compact JSON, for the file's own metadata: the field names once, then one row a layer; beside them
    how those that run as factors do, by site.

    The reasons stay out: they are the report's. Versions from before there was more than the rows read the record.
    """
    names = [field.name for field in fields(ExportedLayer) if field.compare]
    rows = [[getattr(layer, name) for name in names] for layer in layers]
    record: dict[str, Any] = {"version": RECORD_VERSION, "fields": names, "layers": rows}
    factored = {layer.site: astuple(layer.factored) for layer in layers if layer.factored is not None}
    if factored:
        record["factored"] = factored
    return json.dumps(record, separators=(",", ":"))


def from_record(text: str) -> tuple[ExportedLayer, ...]:
    """The layers that ``to_record`` wrote. Raises ValueError on anything else."""
    try:
        record = json.loads(text)
        if record["version"] != RECORD_VERSION:
            raise ValueError(f"version {record['version']!r}, not {RECORD_VERSION}")
        factored = {site: _evaluated(*entry) for site, entry in record.get("factored", {}).items()}
        layers = (_layer(dict(zip(record["fields"], row, strict=True))) for row in record["layers"])
        return tuple(replace(layer, factored=factored.get(layer.site)) for layer in layers)
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _layer(entry: dict[str, Any]) -> ExportedLayer:
    block = entry.pop("block")
    layer = ExportedLayer(block=None if block is None else (block[0], block[1]), **entry)
    sizes = (layer.m, layer.n, layer.zero_blocks, layer.blocks, layer.dense_bytes, layer.bytes, *(layer.block or ()))
    if not (
        isinstance(layer.site, str) and layer.lowering in get_args(Lowering) and all(type(n) is int for n in sizes)
    ):
        raise ValueError(f"a layer {entry}")
    return layer


def _evaluated(rank: Any, evaluation: Any, taps: Any) -> Evaluated:
    if evaluation not in EVALUATIONS or not all(type(n) is int and n > 0 for n in (rank, taps)):
        raise ValueError(f"factors {[rank, evaluation, taps]}")
    return Evaluated(rank, evaluation, taps)
