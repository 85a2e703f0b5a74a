"""The way from a torch model to a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from kronfx.deploy.capture import trace
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.nodes.values import array_of
from kronfx.deploy.options import ExportOptions
from kronfx.deploy.pipeline import STAGES, deploy
from kronfx.deploy.prove.cases import Case, cases_of_example
from kronfx.deploy.prove.inputs import Inputs, inputs_of, tensors_of
from kronfx.deploy.prove.proof import Proof, proof_of
from kronfx.deploy.prove.verify import TOLERANCES, VARIES, Answer, mismatch
from kronfx.deploy.records.report import ExportReport
from kronfx.deploy.source import Source
from kronfx.deploy.storage import product
from kronfx.deploy.write import stripped
from kronfx.errors import ExportError, reason
from kronfx.files import destination
from kronfx.layers import Factors, KroneckerConv, deep_copy, folded_layers, kronecker_layers, require_module
from kronfx.progress import bar
from kronfx.records import Evaluation, Site

AS_EVER = ExportOptions()
_FLOATS = ("float64", "float32", "float16", "bfloat16")


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    example_inputs: Any,
    options: ExportOptions = AS_EVER,
    *,
    trained: Mapping[str, tuple[Factors, Evaluation]] | None = None,
    reference: nn.Module | None = None,
) -> ExportReport:
    """Write a folded model as one ONNX file of standard operators that computes what the model computes.

    - ``example_inputs``: a tensor, a tuple or list of tensors, or a dict of keyword tensors. Dim 0 of every
      tensor whose dim 0 equals that of the first is the batch, dynamic in the file.
    - ``trained``: the factors of folded sites, to store them, and their evaluation, for the lowering ``factors``.
    - ``reference``: the model to verify against, by default ``model`` itself, in eval mode; with inputs made from the
      example's rows, and a tolerance, relative to ``max(1, max|y|)``, of 1e-9 for float64, 1e-4 for float32, 2e-2 for
      float16, 1e-1 for bfloat16.

    The model is left untouched, its training flags too; the file appears under its name once it is whole and
    verified, or not at all.

    Raises ExportError, and VerificationError where the file would not compute what the reference computes.
    """
    _require_values(model)
    target = destination(path, ExportError)
    inputs = inputs_of(example_inputs, model)
    with bar("export", STAGES) as step:
        step("capturing the graph")
        prepared = _eval_copy(model)
        onnx_model = stripped(trace(prepared, inputs, options.dynamic_shapes))
        proof = None
        if options.verify:
            proof = _proof(onnx_model, _eval_copy(reference or model), inputs, options.batch_sizes)
        weights, convolutions = _weights(prepared, trained or {}), _convolutions(prepared)
        return deploy(Source(onnx_model, weights, convolutions=convolutions), target, options, proof, step)


def _weights(model: nn.Module, trained: Mapping[str, tuple[Factors, Evaluation]]) -> tuple[KnownWeight, ...]:
    """The folded matrices of a model; stacks of experts are what the graph makes of them."""
    weights = []
    for site, folded in folded_layers(model).items():
        if folded.weight.dim() != 2:
            continue
        entry = KnownWeight(site, folded.shape, array_of(folded.weight))
        if site in trained:
            factors, evaluation = trained[site]
            stored = product(factors, entry.W.shape, entry.W.dtype)
            entry = replace(entry, factors=factors, evaluation=evaluation, product=stored)
        weights.append(entry)
    return tuple(weights)


def _convolutions(model: nn.Module) -> tuple[KnownWeight, ...]:
    """Those that are not folded."""
    return tuple(
        KnownWeight(
            site,
            layer.grid,
            array_of(layer.factors.materialize()),
            layer.factors,
            layer.evaluation,
            taps=layer.taps,
        )
        for site, layer in kronecker_layers(model).items()
        if isinstance(layer, KroneckerConv)
    )


def _proof(graph: ir.Model, reference: nn.Module, inputs: Inputs, sizes: Sequence[int]) -> Proof:
    shown = cases_of_example(graph.graph, inputs, sizes)
    tensors = [*reference.parameters(), *reference.buffers(), *inputs.tensors]
    tolerances = [TOLERANCES[name] for x in tensors if (name := str(x.dtype).removeprefix("torch.")) in _FLOATS]
    answer = _answers(reference, {id(case): inputs for case, inputs in shown})
    tolerance = max(tolerances, default=TOLERANCES["float32"])
    is_bfloat16 = any(x.dtype == torch.bfloat16 for x in tensors)
    return proof_of(answer, [case for case, _ in shown], tolerance, is_bfloat16, VARIES)


def _answers(reference: nn.Module, inputs: Mapping[int, Inputs]) -> Answer:
    def run(case: Case) -> list[Any]:
        given = inputs[id(case)]
        try:
            with torch.no_grad():
                return [array_of(y) for y in tensors_of(reference(*given.args, **given.kwargs))]
        except Exception as error:  # any model, any exception
            found = f"the reference fails {case.label} ({reason(error)})"
            raise mismatch(found, "batch sizes that it can take", VARIES) from error

    return run


def _require_values(model: nn.Module) -> None:
    require_module(model, ExportError)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_meta:
            remedy = "load the weights before exporting"
            raise ExportError(name, "a tensor on the meta device, which holds no values", "real values", remedy)
    parts = [
        *(
            (name, layer.grid, part)
            for name, layer in kronecker_layers(model).items()
            for part in layer.named_parameters()
        ),
        *((name, layer.shape, ("weight", layer.weight)) for name, layer in folded_layers(model).items()),
    ]
    for name, shape, (part, value) in parts:
        if not torch.isfinite(value).all():
            label = Site(name, "", shape.m, shape.n).label
            remedy = "export a checkpoint from before the training diverged"
            raise ExportError(label, f"NaN or infinite entries in {part}", "finite weights", remedy)


def _eval_copy(model: nn.Module) -> nn.Module:
    try:
        return deep_copy(model).eval()
    except Exception as error:  # a model may hold anything
        found = f"the model cannot be copied ({reason(error)})"
        remedy = "drop what its modules hold besides parameters, buffers and plain values"
        raise ExportError("", found, "a model that copy.deepcopy can copy", remedy) from error
