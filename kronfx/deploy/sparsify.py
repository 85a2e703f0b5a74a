"""From an ONNX file, whoever wrote it, to a sparse one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from typing_extensions import Unpack

from kronfx.deploy.find.folding import is_folded
from kronfx.deploy.find.forms import spell_out
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.find.names import remember
from kronfx.deploy.find.plain import inline
from kronfx.deploy.find.spellings import find
from kronfx.deploy.nodes.values import Array, tensor_of
from kronfx.deploy.opening import opened
from kronfx.deploy.opening.constants import fold, lift
from kronfx.deploy.options import SparsifyKeywords, SparsifyOptions
from kronfx.deploy.pipeline import STAGES, Source, deploy
from kronfx.deploy.prove.proof import proof_of_file
from kronfx.deploy.records.report import RECORD_KEY, ExportReport
from kronfx.deploy.storage import products
from kronfx.errors import ExportError
from kronfx.files import destination
from kronfx.options import keywords
from kronfx.progress import bar


@keywords(SparsifyOptions, first=("lowering", "block"))
def sparsify_onnx(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], **wishes: Unpack[SparsifyKeywords]
) -> ExportReport:
    """Write any ONNX file anew, smaller and faster where its weights have blocks of zeros, and computing the same.

    Every constant is looked at, whoever pruned it: those of MatMul, Gemm, 1x1 Conv, MatMulInteger, QLinearMatMul, the
    fused ones and Einsum that is a product may run sparse, also where they are kept in 4 or 8 bits behind a
    DequantizeLinear; all others are stored sparse and run as they did. A weight that is looked up and multiplied by, as
    a tied embedding, is stored once. An 8-bit file of onnxruntime's
    ``quantize_dynamic`` gains as well: quantize first, then come here. One of ``quantize_static`` (QDQ) becomes
    smaller, and runs as it did. It is verified at two lengths of every free axis besides the batch.

    External data is read from below the file's own folder, and nowhere else; what is written stands alone. Opsets from
    7 on are converted. Where nothing gets smaller or faster, ``dst`` is the source's own bytes, and the report says so.

    ``src`` is left untouched, ``dst`` is written whole or not at all. Raises ExportError, VerificationError.
    """
    options = SparsifyOptions(**wishes)
    target = destination(dst, ExportError)
    if options.lowering == "factors":
        remedy = "export the factored model itself with kronfx.export_onnx"
        raise ExportError("", "no factors in an ONNX file", "a model for lowering='factors'", remedy)
    with bar("sparsify", STAGES) as step:
        step("reading")
        source = read_source(src)
        _require_apart(source, target)
        notes = (*source.notes, *_unfit(source.model.graph, options.block))
        source = replace(source, block=options.block, notes=notes)
        original, proof = source.original, None
        if options.verify and original is not None:
            proof = proof_of_file(original, source.model, options.batch_sizes, options.example_inputs)
        return deploy(source, target, options, proof, step)


def read_source(src: object) -> Source:
    """The graph of a file with everything constant as an initializer, the factors that it stores, and notes on what is
    left alone. Raises ExportError."""
    file = opened(src)
    model, path = file.model, file.original.path
    model.metadata_props.pop(RECORD_KEY, None)
    remember(model.graph)
    if model.functions:
        inline(model)
        lift(path, model)  # what was a function's own
    _require_finite(model.graph)
    weights = tuple(KnownWeight(site, own.shape, own.W, product=own) for site, own in products(model.graph))
    fold(path, model, is_folded)
    spell_out(model.graph)
    bodies = sum(1 for node in model.graph for _ in node.attributes.values() if _.type == ir.AttributeType.GRAPH)
    note = f"{bodies} bodies of If, Loop or Scan were left as they are: weights in them stay dense"
    return Source(model, weights, notes=(note,) if bodies else (), changes=file.changes, original=file.original)


def _require_apart(source: Source, target: Path) -> None:
    """The new file does not take the place of data that the source goes on to need."""
    if source.original is not None and target in source.original.data:
        found = f"{target} is where {source.original.path} has its external data"
        raise ExportError("", found, "a place that is free", "choose another path")


def _unfit(graph: ir.Graph, block: tuple[int, int] | None) -> tuple[str, ...]:
    """A note where no weight can be cut into the blocks that were asked for."""
    if block is None or any(
        m % block[0] == 0 and n % block[1] == 0 for m, n in (linear.dims for linear in find(graph))
    ):
        return ()
    return (f"no weight can be cut into blocks of {block[0]}x{block[1]}: all of them stay dense",)


def _require_finite(graph: ir.Graph) -> None:
    """What products are made with is finite."""
    linears = find(graph)
    scales = {linear.scales.scale for linear in linears if linear.scales is not None}
    for weight in {linear.weight for linear in linears} | scales:
        array = tensor_of(weight).numpy()
        if array.dtype.kind not in "iub" and not _is_finite(array):
            remedy = "export a checkpoint from before the training diverged"
            raise ExportError(weight.name or "", "NaN or infinite entries in a weight", "finite weights", remedy)


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32)).all())
