"""From an ONNX file, whoever wrote it, to a sparse one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.layers import Known
from kronfx.deploy.find.spellings import find
from kronfx.deploy.nodes.values import tensor_of
from kronfx.deploy.opening import opened
from kronfx.deploy.opening.constants import fold
from kronfx.deploy.options import checked, checked_block, checked_counts
from kronfx.deploy.pipeline import Source, deploy
from kronfx.deploy.prove.proof import proof_of_file
from kronfx.deploy.quiet import progress
from kronfx.deploy.records.report import RECORD_KEY, ExportReport
from kronfx.deploy.storage import products
from kronfx.errors import ExportError
from kronfx.files import destination

_BATCHES = (1, 7, 32)


def sparsify(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    lowering: str = "auto",
    block: tuple[int, int] | None = None,
    tune: bool = True,
    rows: Sequence[int] = (1, 128),
    optimize_for: str = "latency",
    timings: Any = None,
    verify: bool = True,
    batch_sizes: Sequence[int] = _BATCHES,
    example_inputs: Mapping[str, Any] | None = None,
) -> ExportReport:
    """Write ``src`` anew, smaller and faster where its weights have zero blocks; see :func:`kronfx.sparsify_onnx`."""
    target = destination(dst, ExportError)
    tuning = checked(lowering, tune, rows, optimize_for, timings)
    grid = checked_block(block)
    sizes = checked_counts("batch_sizes", batch_sizes, "(1, 7, 32)")
    if lowering == "factors":
        remedy = "export the factored model itself with kronfx.export_onnx"
        raise ExportError("", "no factors in an ONNX file", "a model for lowering='factors'", remedy)
    with progress("sparsify") as step:
        step("reading")
        source = read_source(src)
        _require_apart(source, target)
        source = replace(source, block=grid, notes=(*source.notes, *_unfit(source.model.graph, grid)))
        original = source.original
        proof = (
            proof_of_file(original, source.model, sizes, example_inputs) if verify and original is not None else None
        )
        return deploy(source, target, tuning, proof, step)


def read_source(src: object) -> Source:
    """The graph of a file with everything constant as an initializer, the factors that it stores, and notes on what is
    left alone. Raises ExportError."""
    file = opened(src)
    model, path = file.model, file.original.path
    _require_finite(model.graph)
    model.metadata_props.pop(RECORD_KEY, None)
    known = tuple(Known(site, kept.shape, kept.W, product=kept) for site, kept in products(model.graph))
    fold(path, model)
    bodies = sum(1 for node in model.graph for _ in node.attributes.values() if _.type == ir.AttributeType.GRAPH)
    note = f"{bodies} bodies of If, Loop or Scan were left as they are: weights in them stay dense"
    return Source(model, known, notes=(note,) if bodies else (), changes=file.changes, original=file.original)


def _require_apart(source: Source, target: Path) -> None:
    """The new file does not take the place of data that the source goes on to need."""
    if source.original is not None and target in source.original.data:
        found = f"{target} is where {source.original.path} has its external data"
        raise ExportError("", found, "a place that is free", "choose another path")


def _unfit(graph: ir.Graph, block: tuple[int, int] | None) -> tuple[str, ...]:
    """A note where no weight can be cut into the blocks that were asked for."""
    if block is None or any(
        m % block[0] == 0 and n % block[1] == 0 for m, n in (linear.W.shape for linear in find(graph))
    ):
        return ()
    return (f"no weight can be cut into blocks of {block[0]}x{block[1]}: all of them stay dense",)


def _require_finite(graph: ir.Graph) -> None:
    """What products are made with is finite."""
    for weight in {linear.weight for linear in find(graph)}:
        array = tensor_of(weight).numpy()
        if array.dtype.kind not in "iub" and not np.isfinite(array).all():
            remedy = "export a checkpoint from before the training diverged"
            raise ExportError(weight.name or "", "NaN or infinite entries in a weight", "finite weights", remedy)
