"""From an ONNX file, whoever wrote it, to a sparse one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
from typing_extensions import Unpack

from kronfx.deploy.find.spellings import find
from kronfx.deploy.options import SparsifyKeywords, SparsifyOptions
from kronfx.deploy.pipeline import STAGES, deploy
from kronfx.deploy.prove.proof import proof_of_file
from kronfx.deploy.records.report import ExportReport
from kronfx.deploy.source import Source, read_source
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
