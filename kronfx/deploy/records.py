"""What the export did and what an ONNX file holds: frozen, printable, JSON-ready values."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any

from kronfx.records import Lowering
from kronfx.tables import percent, render

RECORD_KEY = "kronfx"
RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class ExportedLayer:
    """One linear map ``W [m, n]`` in the file.

    ``block`` is ``(m2, n2)``, or None where the file knows no block grid; ``zero_blocks`` of the ``blocks``
    blocks of ``W`` are exactly zero. ``dense_bytes`` is the size of the dense ``W``, ``bytes`` what the file
    stores for it (0 where the layer shares what an earlier one stores), both without the bias.
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


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What :func:`kronfx.deploy.export` wrote.

    ``bytes`` is the size of the whole file. ``max_error`` is the largest ``max|y - y_ref| / max(1,
    max|y_ref|)`` over all outputs and verified ``batch_sizes``, ``tolerance`` what it was held to,
    ``load_seconds`` how long onnxruntime took to load the file; None, and no batch sizes, where verification
    was declined.
    """

    path: str
    bytes: int
    layers: tuple[ExportedLayer, ...]
    batch_sizes: tuple[int, ...] = ()
    max_error: float | None = None
    tolerance: float | None = None
    load_seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{layer_table(f'export: {self.path}, {self.bytes:,} bytes', self.layers)}\n\n{self._verdict()}"

    def _verdict(self) -> str:
        if self.max_error is None or self.tolerance is None or self.load_seconds is None:
            return "not verified"
        sizes = ", ".join(map(str, self.batch_sizes)) or "that of the example"
        return (
            f"verified in onnxruntime, batch sizes {sizes}: relative error {self.max_error:.1e} "
            f"(tolerance {self.tolerance:.0e}), loads in {1000 * self.load_seconds:.0f} ms"
        )


@dataclass(frozen=True, slots=True)
class OnnxSummary:
    """What an ONNX file holds: its size in bytes, who wrote it, its linear maps."""

    path: str
    bytes: int
    producer: str
    layers: tuple[ExportedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return layer_table(f"{self.path}: {self.bytes:,} bytes, written by {self.producer or '?'}", self.layers)


def layer_table(title: str, layers: tuple[ExportedLayer, ...]) -> str:
    """Layers as a text table, the total last."""
    if not layers:
        return f"{title}; no linear layer"
    headers = ("layer", "m x n", "block", "lowering", "zero blocks", "dense bytes", "bytes", "share")
    rows = [(*_cells(layer), percent(layer.bytes, layer.dense_bytes)) for layer in layers]
    dense, stored = sum(layer.dense_bytes for layer in layers), sum(layer.bytes for layer in layers)
    total = ("total", None, None, None, None, dense, stored, percent(stored, dense))
    return render(title, headers, [*rows, total])


def _cells(layer: ExportedLayer) -> tuple[object, ...]:
    block = "x".join(map(str, layer.block)) if layer.block else None
    zero = percent(layer.zero_blocks, layer.blocks) if layer.blocks else None
    size = f"{layer.m}x{layer.n}"
    return layer.site, size, block, layer.lowering, zero, layer.dense_bytes, layer.bytes


def to_record(layers: tuple[ExportedLayer, ...]) -> str:
    """The layers as compact JSON, for the file's own metadata: the field names once, then one row a layer."""
    names = [field.name for field in fields(ExportedLayer)]
    record = {"version": RECORD_VERSION, "fields": names, "layers": [astuple(layer) for layer in layers]}
    return json.dumps(record, separators=(",", ":"))


def from_record(text: str) -> tuple[ExportedLayer, ...]:
    """The layers that ``to_record`` wrote. Raises ValueError on anything else."""
    record = json.loads(text)
    try:
        if record["version"] != RECORD_VERSION:
            raise ValueError(f"version {record['version']!r}, not {RECORD_VERSION}")
        return tuple(_layer(dict(zip(record["fields"], row, strict=True))) for row in record["layers"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _layer(entry: dict[str, Any]) -> ExportedLayer:
    block = entry.pop("block")
    return ExportedLayer(block=None if block is None else (block[0], block[1]), **entry)
