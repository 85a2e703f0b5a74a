"""Verification: the written file, in stock onnxruntime, against the torch model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from kronfx.deploy.inputs import Inputs, tensors_of
from kronfx.deploy.trace import reason
from kronfx.errors import VerificationError

_Array = np.ndarray[Any, Any]

# Relative to max(1, max|y|): some hundred to some thousand rounding errors of the coarsest type at work.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

_LOOK = "verify=False writes the file all the same, to look into"
_VARIES = f"pass dynamic_shapes={{}} if the model computes something else at other batch sizes; {_LOOK}"


@dataclass(frozen=True, slots=True)
class Verified:
    """The largest relative error found, what it was held to, at which batch sizes, and the time of loading."""

    max_error: float
    tolerance: float
    batch_sizes: tuple[int, ...]
    load_seconds: float


def verify(file: Path, reference: nn.Module, inputs: Inputs, batch_sizes: Sequence[int]) -> Verified:
    """Run ``file`` in onnxruntime against ``reference`` at each batch size.

    The error of an output ``y`` is ``max|y - y_ref| / max(1, max|y_ref|)``, infinities left out where they
    agree. The tolerance follows from the coarsest floating type among parameters and inputs: 1e-9 for
    float64, 1e-4 for float32, 2e-2 for float16, 1e-1 for bfloat16. Integers and booleans must agree exactly.
    A file whose batch is fixed is run at the example's size alone. Raises VerificationError.
    """
    _check(file)
    started = time.perf_counter()
    session = _session(file)
    load_seconds = time.perf_counter() - started
    tolerance = _tolerance(reference, inputs)
    errors = {}
    for case in _cases(session, inputs, batch_sizes):
        errors[case.batch] = error = _compare(session, reference, case)
        if not error <= tolerance:
            found = f"a relative error of {error:.2e} at batch size {case.batch}"
            raise _mismatch(found, f"at most {tolerance:.0e}", _VARIES)
    sizes = tuple(batch for batch in errors if batch is not None)
    return Verified(max(errors.values()), tolerance, sizes, load_seconds)


def _check(file: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:  # the checker and its shape inference have no common class
        raise _mismatch(f"the file is not valid ONNX ({reason(error)})", "a file that onnx.checker accepts") from error


def _session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one class for every status code, and no common one
        raise _mismatch(f"onnxruntime cannot load the file ({reason(error)})", "a file that it loads") from error


def _cases(session: Any, inputs: Inputs, batch_sizes: Sequence[int]) -> list[Inputs]:
    shapes = [value.shape for value in session.get_inputs()]
    tensors = inputs.tensors
    if len(shapes) != len(tensors):
        found = f"{len(shapes)} inputs in the graph, {len(tensors)} in the example"
        raise _mismatch(found, "one graph input for every tensor of the example")
    batched = [shape for shape, tensor in zip(shapes, tensors, strict=True) if inputs.is_batched(tensor)]
    if not batched or any(isinstance(shape[0], int) for shape in batched):
        return [inputs]
    return [inputs.at_batch(size) for size in batch_sizes]


def _compare(session: Any, reference: nn.Module, inputs: Inputs) -> float:
    at = f"at batch size {inputs.batch}"
    names = [value.name for value in session.get_inputs()]
    try:
        with torch.no_grad():
            wanted = [_array(y) for y in tensors_of(reference(*inputs.args, **inputs.kwargs))]
    except Exception as error:  # any model, any exception
        raise _mismatch(
            f"the reference fails {at} ({reason(error)})", "batch sizes that it can take", _VARIES
        ) from error
    if any(np.isnan(y).any() for y in wanted):
        found = f"the reference model itself answers NaN {at}, so there is nothing to compare with"
        raise _mismatch(found, "a reference that answers numbers", "choose another example")
    try:
        feeds = [x.detach().cpu().numpy() for x in inputs.tensors]
        actual = session.run(None, dict(zip(names, feeds, strict=True)))
    except Exception as error:  # see _session
        raise _mismatch(f"onnxruntime fails {at} ({reason(error)})", "a file that runs", _VARIES) from error
    found_shapes, wanted_shapes = [y.shape for y in actual], [y.shape for y in wanted]
    if found_shapes != wanted_shapes:
        raise _mismatch(f"outputs of shapes {found_shapes} {at}", f"the reference's {wanted_shapes}", _VARIES)
    return max((_error(y, y_ref) for y, y_ref in zip(actual, wanted, strict=True)), default=0.0)


def _array(y: Tensor) -> _Array:
    """Values in float64, which holds those of every narrower type exactly; integers and booleans as they are."""
    exact = y.detach().cpu()
    array: _Array = (exact.double() if exact.is_floating_point() else exact).numpy()
    return array


def _error(actual: _Array, wanted: _Array) -> float:
    same = actual == wanted
    if same.all():
        return 0.0
    if not np.issubdtype(wanted.dtype, np.floating):
        return float("inf")
    finite = np.abs(wanted[np.isfinite(wanted)])
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(actual - wanted))
    return float(np.nan_to_num(difference, nan=np.inf).max() / max(1.0, finite.max(initial=0.0)))


def _tolerance(reference: nn.Module, inputs: Inputs) -> float:
    tensors = chain(reference.parameters(), reference.buffers(), inputs.tensors)
    known = [TOLERANCES[t.dtype] for t in tensors if t.dtype in TOLERANCES]
    return max(known, default=TOLERANCES[torch.float32])


def _mismatch(found: str, needed: str, remedy: str = _LOOK) -> VerificationError:
    return VerificationError("", found, needed, remedy)
