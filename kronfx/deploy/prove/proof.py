"""What a new file is held against: a model, or the file that it was made of, on inputs that this one runs on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from kronfx.deploy.opening import Original
from kronfx.deploy.opening.varying import varying
from kronfx.deploy.prove.cases import Case, cases_of_graph
from kronfx.deploy.prove.verify import (
    TOLERANCES,
    UNLIKE,
    Answer,
    agree,
    answers,
    reference_answers,
    remembered,
    session,
)
from kronfx.errors import ExportError, VerificationError, reason

_PATIENCE = 2.5  # seconds for a case that was made up, where a Loop may go on for ever
# Types of which onnxruntime takes and gives no arrays, by their names' beginnings.
_UNKNOWN = ("BFLOAT", "FLOAT4", "FLOAT6", "FLOAT8", "INT2", "INT4", "UINT2", "UINT4")


@dataclass(frozen=True, slots=True)
class Proof:
    """What the file is held against: a ``reference``, the ``cases`` and the ``tolerance``.

    ``remedy`` is what can be done where the two differ. ``load`` makes answers of a file, where that is not
    onnxruntime.
    """

    reference: Answer
    cases: Sequence[Case]
    tolerance: float
    remedy: str
    load: Callable[[Path], Answer] | None = None
    runtime: str = "onnxruntime"


def proof_of(reference: Answer, cases: Sequence[Case], tolerance: float, is_bfloat16: bool, remedy: str) -> Proof:
    """Held against ``reference`` in onnxruntime; in ONNX's own for bfloat16, of which that has no kernels on CPUs."""
    if is_bfloat16:
        return Proof(reference, cases, tolerance, remedy, reference_answers, "ONNX's reference evaluator")
    return Proof(reference, cases, tolerance, remedy)


def proof_of_file(
    original: Original, model: ir.Model, sizes: Sequence[int], example: Mapping[str, Any] | None
) -> Proof:
    """Held against the file that a ``model`` was read from, on inputs that it runs on.

    Raises ExportError where there are none, VerificationError where it does not answer the same twice.
    """
    name = str(original.path)
    cases = cases_of_graph(model.graph, sizes, example)
    kinds = {v.const_value.dtype.name.lower() for v in model.graph.initializers.values() if v.const_value is not None}
    named = {"float": "float32", "double": "float64"}
    tolerance = (
        max((TOLERANCES.get(named.get(kind, kind), 0.0) for kind in kinds), default=0.0) or TOLERANCES["float32"]
    )
    ends = [value.dtype for value in (*model.graph.inputs, *model.graph.outputs)]
    brain = "bfloat16" in kinds or any(kind is not None and kind.name.startswith(_UNKNOWN) for kind in ends)
    may_hang = example is None and any(node.op_type == "Loop" for node in model.graph.all_nodes())
    patience = _PATIENCE if may_hang else None
    runtime = (
        reference_answers(original.in_one()) if brain else answers(session(original.path, name=name), UNLIKE, patience)
    )
    answer = remembered(runtime)
    problems = [_why(answer, case) for case in cases]
    usable = [case for case, problem in zip(cases, problems, strict=True) if not problem]
    if not usable and example is not None:
        found = f"example_inputs that {name} does not run on ({problems[0]})"
        raise ExportError("", found, "inputs that it can take", "give an array of the right shape for each input")
    if not usable:
        found = f"{name} does not run on random inputs ({problems[0]})"
        raise ExportError("", found, "inputs that it can take", "pass example_inputs={name: array, ...}")
    lots = varying(model)
    if lots and not agree(runtime, answer, usable[0]):
        found = f"its answers vary, for {' and '.join(lots)} in it draw lots"
        remedy = "verify=False writes it unverified; or export it in eval mode, with its noise as an input"
        raise VerificationError(name, found, "a file that answers the same twice", remedy)
    return proof_of(answer, usable, tolerance, brain, UNLIKE)


def _why(answer: Answer, case: Case) -> str:
    """What is wrong with an input; empty where nothing is."""
    try:
        answer(case)
    except Exception as error:  # whatever it is, this input is not for this model
        return reason(error)
    return ""
