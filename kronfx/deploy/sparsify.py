"""From an ONNX file, whoever wrote it, to a sparse one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.layers import Known
from kronfx.deploy.find.spellings import find
from kronfx.deploy.nodes.values import tensor_of
from kronfx.deploy.opening import Original, opened
from kronfx.deploy.opening.constants import fold
from kronfx.deploy.opening.varying import varying
from kronfx.deploy.options import checked, checked_block, checked_counts
from kronfx.deploy.pipeline import Proof, Source, deploy, proof_of
from kronfx.deploy.prove.cases import Case, cases_of_graph
from kronfx.deploy.prove.verify import TOLERANCES, UNLIKE, Answer, answers, reference_answers, same, session
from kronfx.deploy.quiet import progress
from kronfx.deploy.records.report import RECORD_KEY, ExportReport
from kronfx.deploy.storage import products
from kronfx.errors import ExportError, VerificationError, reason
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
        source = replace(source, block=grid, notes=(*source.notes, *_unfit(source.model.graph, grid)))
        original = source.original
        proof = _proof(source, original, sizes, example_inputs) if verify and original is not None else None
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


def _proof(source: Source, original: Original, sizes: tuple[int, ...], example: Mapping[str, Any] | None) -> Proof:
    """Held against the file itself, on inputs that it runs on. Raises ExportError where there are none,
    VerificationError where it does not answer the same twice."""
    model, name = source.model, str(original.path)
    cases = cases_of_graph(model.graph, sizes, example)
    kinds = {v.const_value.dtype.name.lower() for v in model.graph.initializers.values() if v.const_value is not None}
    named = {"float": "float32", "double": "float64"}
    tolerance = (
        max((TOLERANCES.get(named.get(kind, kind), 0.0) for kind in kinds), default=0.0) or TOLERANCES["float32"]
    )
    brain = "bfloat16" in kinds
    answer = reference_answers(original.in_one()) if brain else answers(session(original.path, name=name))
    usable = [case for case in cases if _runs(answer, case)]
    if not usable and example is not None:
        found = f"example_inputs that {name} does not run on ({_why(answer, cases[0])})"
        raise ExportError("", found, "inputs that it can take", "give an array of the right shape for each input")
    if not usable:
        found = f"{name} does not run on random inputs ({_why(answer, cases[0])})"
        raise ExportError("", found, "inputs that it can take", "pass example_inputs={name: array, ...}")
    lots = varying(model)
    if lots and not same(answer, usable[0]):
        found = f"its answers vary, for {' and '.join(lots)} in it draw lots"
        remedy = "verify=False writes it unverified; or export it in eval mode, with its noise as an input"
        raise VerificationError(name, found, "a file that answers the same twice", remedy)
    return proof_of(answer, usable, tolerance, brain, UNLIKE)


def _runs(answer: Answer, case: Case) -> bool:
    return not _why(answer, case)


def _why(answer: Answer, case: Case) -> str:
    """What is wrong with an input; empty where nothing is."""
    try:
        answer(case)
    except Exception as error:  # whatever it is, this input is not for this model
        return reason(error)
    return ""
