"""From an ONNX file, whoever wrote it, to a sparse one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass
from onnxscript.optimizer import fold_constants
from typing_extensions import Unpack

from kronfx.deploy.find.folding import is_folded
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.find.plain import make_plain
from kronfx.deploy.find.spellings import find
from kronfx.deploy.nodes.values import tensor_of
from kronfx.deploy.options import SparsifyKeywords, SparsifyOptions
from kronfx.deploy.pipeline import Proof, Source, deploy, proof_of
from kronfx.deploy.prove.cases import Case, cases_of_graph
from kronfx.deploy.prove.verify import TOLERANCES, Answer, answers, reference_answers, session
from kronfx.deploy.quiet import progress, silence
from kronfx.deploy.records.report import RECORD_KEY, ExportReport
from kronfx.deploy.storage import products
from kronfx.deploy.write import INFERRED
from kronfx.errors import ExportError, reason
from kronfx.files import destination
from kronfx.options import keywords

OLDEST_OPSET = 13


@keywords(SparsifyOptions, first=("lowering", "block"))
def sparsify_onnx(
    src: str | os.PathLike[str], dst: str | os.PathLike[str], **wishes: Unpack[SparsifyKeywords]
) -> ExportReport:
    """Write any ONNX file anew, smaller and faster where its weights have blocks of zeros, and computing the same.

    Every constant of a MatMul, Gemm, 1x1 Conv or MatMulInteger is looked at, whoever pruned it. An 8-bit file of
    onnxruntime's ``quantize_dynamic`` gains as well: quantize first, then come here. One of ``quantize_static`` (QDQ)
    becomes smaller, and runs as it did. It is verified at two lengths of every free axis besides the batch.

    ``src`` is left untouched, ``dst`` is written whole or not at all. Raises ExportError, VerificationError.
    """
    options = SparsifyOptions(**wishes)
    target = destination(dst, ExportError)
    if options.lowering == "factors":
        remedy = "export the factored model itself with kronfx.export_onnx"
        raise ExportError("", "no factors in an ONNX file", "a model for lowering='factors'", remedy)
    with progress("sparsify") as step:
        step("reading")
        source = read_source(src)
        notes = (*source.notes, *_unfit(source.model.graph, options.block))
        source = replace(source, block=options.block, notes=notes)
        proof = _proof(Path(src), source.model, options) if options.verify else None
        return deploy(source, target, options, proof, step)


def read_source(src: str | os.PathLike[str]) -> Source:
    """The graph of a file with everything constant as an initializer, the factors that it stores, and notes on what is
    left alone. Raises ExportError."""
    if not isinstance(src, (str, bytes, os.PathLike)):
        raise _unreadable(repr(src), f"a {type(src).__name__}")
    name = os.fsdecode(src)
    try:
        model = ir.load(name, format="protobuf")
    except OSError as error:
        raise _unreadable(name, f"cannot be read: {error.strerror or error}") from None
    except (DecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(name, f"not in the ONNX format ({type(error).__name__})") from None
    if not model.ir_version or not len(model.graph):
        raise _unreadable(name, "no ONNX graph in it")
    opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", OLDEST_OPSET))
    if opset < OLDEST_OPSET:
        remedy = "convert it with onnx.version_converter.convert_version, or export anew"
        raise ExportError(name, f"opset {opset}", f"opset {OLDEST_OPSET} or later", remedy)
    try:
        model.graph.sort()
    except ValueError as error:
        raise _unreadable(name, f"a graph with a circle in it ({error})") from None
    _require_finite(name, model.graph)
    model.metadata_props.pop(RECORD_KEY, None)
    make_plain(model)
    LiftConstantsToInitializersPass()(model)
    weights = tuple(KnownWeight(site, own.shape, own.W, product=own) for site, own in products(model.graph))
    with silence():
        fold_constants(model, input_size_limit=2**62, output_size_limit=2**62, should_fold=is_folded)
        _forget_placeholders(model.graph)
        untold = [value for node in model.graph for value in node.outputs if value.shape is None]
        ShapeInferencePass()(model)
    for value in untold:
        value.meta[INFERRED] = True
    bodies = sum(1 for node in model.graph for _ in node.attributes.values() if _.type == ir.AttributeType.GRAPH)
    note = f"{bodies} bodies of If, Loop or Scan were left as they are: weights in them stay dense"
    return Source(model, weights, notes=(note,) if bodies else ())


def _unfit(graph: ir.Graph, block: tuple[int, int] | None) -> tuple[str, ...]:
    """A note where no weight can be cut into the blocks that were asked for."""
    if block is None or any(
        m % block[0] == 0 and n % block[1] == 0 for m, n in (linear.W.shape for linear in find(graph))
    ):
        return ()
    return (f"no weight can be cut into blocks of {block[0]}x{block[1]}: all of them stay dense",)


def _forget_placeholders(graph: ir.Graph) -> None:
    """Drop the shapes in which an earlier inference gave up: the next one would stop where they stand."""
    for node in graph:
        for value in node.outputs:
            if value.shape is not None and any(str(dim).startswith("unk__") for dim in value.shape):
                value.shape = None


def _require_finite(name: str, graph: ir.Graph) -> None:
    """All tensors can be read, and what products are made with is finite."""
    weights = {linear.weight for linear in find(graph)}
    for value in graph.initializers.values():
        try:
            array = tensor_of(value).numpy() if value.const_value is not None else np.zeros(0)
        except (OSError, ValueError) as error:
            raise _unreadable(name, f"its external data cannot be read: {error}") from None
        if value in weights and array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float64)).all():
            remedy = "export a checkpoint from before the training diverged"
            raise ExportError(value.name or "", "NaN or infinite entries in a weight", "finite weights", remedy)


def _proof(src: Path, model: ir.Model, options: SparsifyOptions) -> Proof:
    cases = cases_of_graph(model.graph, options.batch_sizes, options.example_inputs)
    kinds = {v.const_value.dtype.name.lower() for v in model.graph.initializers.values() if v.const_value is not None}
    named = {"float": "float32", "double": "float64"}
    tolerance = (
        max((TOLERANCES.get(named.get(kind, kind), 0.0) for kind in kinds), default=0.0) or TOLERANCES["float32"]
    )
    is_bfloat16 = "bfloat16" in kinds
    answer = reference_answers(src) if is_bfloat16 else answers(session(src))
    usable = [case for case in cases if _runs(answer, case)]
    if not usable and options.example_inputs is not None:
        found = f"example_inputs that {src} does not run on ({_why(answer, cases[0])})"
        raise ExportError("", found, "inputs that it can take", "give an array of the right shape for each input")
    if not usable:
        found = f"{src} does not run on random inputs"
        raise ExportError("", found, "inputs that it can take", "pass example_inputs={name: array, ...}")
    return proof_of(answer, usable, tolerance, is_bfloat16)


def _runs(answer: Answer, case: Case) -> bool:
    return not _why(answer, case)


def _why(answer: Answer, case: Case) -> str:
    """What is wrong with an input; empty where nothing is."""
    try:
        answer(case)
    except Exception as error:  # whatever it is, this input is not for this model
        return reason(error)
    return ""


def _unreadable(name: str, found: str) -> ExportError:
    return ExportError(name, found, "an ONNX file", "give the path of a file that an exporter wrote")
