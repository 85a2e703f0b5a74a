"""What an ONNX file holds, or an export did, as a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kronfx.page import Gain, Page, Sheet, gains
from kronfx.records import KroneckerShape, Refusal

if TYPE_CHECKING:
    from kronfx.deploy.records.forecast import Forecast
    from kronfx.deploy.records.report import ExportedLayer, ExportReport, OnnxSummary


def page_of_export(report: ExportReport) -> Page:
    """Bytes and times against the dense file, or the source, and why each layer runs as it does."""
    sheets = tuple(map(_sheet, report.layers))
    times = (Gain(_batch(run.batch), "s", run.seconds, run.dense) for run in report.latency)
    size = Gain("file", "bytes", report.bytes, report.dense_bytes)
    refusals = (Refusal(w.name, "constant", (w.m, w.n), w.why) for w in report.left)
    return Page(
        title=Path(report.path).name,
        kind="ONNX file",
        sheets=sheets,
        gains=(size, *times, *gains(sheets)),
        verified=_verified(report),
        refusals=tuple(refusals),
        notes=report.notes,
        command='kx.inspect(report).to_html("report.html")  # report = kx.export_onnx(...) or kx.sparsify_onnx(...)',
    )


def page_of_file(summary: OnnxSummary, expected: Forecast | None) -> Page:
    """The linear maps of a file as they are; of one that somebody else wrote, what would become of them."""
    sheets, name = tuple(map(_sheet, summary.layers)), Path(summary.path).name
    notes: tuple[str, ...] = ()
    if expected is not None and not expected.ours:
        sheets, notes = tuple(map(_as_it_is, expected.layers)), (expected.verdict,)
    elif expected is not None:
        maps = {(layer.site, layer.block): layer.map for layer in expected.layers}
        sheets = tuple(replace(sheet, map=maps.get((sheet.site, _block(sheet)))) for sheet in sheets)
    size = Gain("file", "bytes", summary.bytes)
    command = f'kx.inspect("{name}").to_html("report.html")'
    return Page(name, "ONNX file", sheets, gains=(size, *gains(sheets)), notes=notes, command=command)


def _as_it_is(layer: ExportedLayer) -> Sheet:
    """Before anything is done to it."""
    now = replace(layer, lowering="dense", bytes=layer.dense_bytes)
    return replace(_sheet(now), why=f"dense in this file; kx.sparsify_onnx would make it {layer.lowering}: {layer.why}")


def _block(sheet: Sheet) -> tuple[int, int] | None:
    return None if sheet.shape is None else sheet.shape.block


def _sheet(layer: ExportedLayer) -> Sheet:
    entries, block = layer.m * layer.n, layer.block
    shape = None if block is None else KroneckerShape.covering(layer.m, layer.n, block)
    survivors = None if block is None else (layer.blocks - layer.zero_blocks) * block[0] * block[1]
    work = {"dense": entries, "blocks": survivors}.get(layer.lowering)
    if layer.factored is not None and shape is not None:
        work = layer.factored.multiply_adds(shape)
    return Sheet(
        site=layer.site,
        state="onnx",
        m=layer.m,
        n=layer.n,
        runs_as=layer.lowering,
        shape=shape,
        dense=entries,
        dense_bytes=layer.dense_bytes,
        bytes=layer.bytes,
        dense_work=entries,
        work=work,
        factored=layer.factored,
        rank=None if layer.factored is None else layer.factored.rank,
        zero_blocks=layer.zero_blocks if layer.blocks else None,
        blocks=layer.blocks or None,
        why=layer.why,
        map=layer.map,
        laps=layer.laps,
    )


def _batch(batch: int | None) -> str:
    return "a run" if batch is None else f"a run, batch {batch}"


def _verified(report: ExportReport) -> str:
    if report.max_error is None or report.tolerance is None:
        return ""
    sizes = _listed(report.batch_sizes)
    return (
        f"verified in {report.runtime}{f' at batch sizes {sizes}' if sizes else ''}: "
        f"relative error {report.max_error:.1e}, tolerance {report.tolerance:.0e}"
    )


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
