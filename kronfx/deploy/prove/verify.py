"""Verification: the written file, in stock onnxruntime, against the model or the file it came from."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx.reference import ReferenceEvaluator

from kronfx.deploy.nodes.values import Array
from kronfx.deploy.prove.cases import Case
from kronfx.errors import VerificationError, reason
from kronfx.progress import bar

# Relative to max(1, max|y|): some hundred to some thousand rounding errors of the coarsest type at work; 8-bit
# activations round anew where the last bit of a sum changes, one step in 255.
# Beside weights of few bits onnxruntime may round x to 8 bits, in one of the two files only.
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
TOLERANCES |= dict.fromkeys(("int8", "uint8", "int4", "uint4"), 2e-2)

_LOOK = "verify=False writes the file all the same, to look into"
VARIES = f"pass dynamic_shapes={{}} if the model computes something else at other batch sizes; {_LOOK}"
UNLIKE = f"pass example_inputs={{name: array, ...}} if it is made for inputs unlike random ones; {_LOOK}"

Answer = Callable[[Case], list[Any]]  # arrays, lists of them, dicts, None, as onnxruntime gives them


@dataclass(frozen=True, slots=True)
class Verified:
    """The largest relative error found, what it was held to, and at which batch sizes."""

    max_error: float
    tolerance: float
    batch_sizes: tuple[int, ...]


def verify(answer: Answer, reference: Answer, cases: Sequence[Case], tolerance: float, remedy: str) -> Verified:
    """Hold ``answer`` against ``reference`` in every case.

    The error of an output ``y`` is ``max|y - y_ref| / max(1, max|y_ref|)``, infinities left out where they agree.
    Integers, booleans and strings must agree exactly; sequences element by element, maps key by key. Raises
    VerificationError, with the ``remedy``.
    """
    worst = 0.0
    with bar("verifying", len(cases)) as begin:
        for case in cases:
            begin(case.label)
            error = difference(answer, reference, case, remedy)
            if not error <= tolerance:
                found = f"a relative error of {error:.2e} {case.label}"
                raise mismatch(found, f"at most {tolerance:.0e}", remedy)
            worst = max(worst, error)
    return Verified(worst, tolerance, tuple(case.batch for case in cases if case.batch is not None))


def check(file: Path) -> None:
    """Raise VerificationError where onnx.checker does not accept the file."""
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:  # the checker and its shape inference have no common class
        raise mismatch(f"the file is not valid ONNX ({reason(error)})", "a file that onnx.checker accepts") from error


def session(file: Path, spinning: bool = False, name: str = "the file") -> Any:
    """The file in onnxruntime; between runs its threads sleep, or, ``spinning``, wait awake. Raises VerificationError.

    Spinning is what onnxruntime does by default: what is timed must. It slows down every other session of the process.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has one class for every status code, and no common one
        raise mismatch(f"onnxruntime cannot load {name} ({reason(error)})", "a file that it loads") from error


def timed_session(file: Path) -> tuple[Any, float]:
    """The file in onnxruntime, and the seconds it took to load."""
    started = time.perf_counter()
    loaded = session(file, spinning=True)
    return loaded, time.perf_counter() - started


def answers(loaded: Any, remedy: str = _LOOK, patience: float | None = None) -> Answer:
    """What a session answers; a run of more than ``patience`` seconds is ended, and fails."""
    names = [value.name for value in loaded.get_inputs()]

    def run(case: Case) -> list[Any]:
        if len(names) != len(case.feeds):
            found = f"{len(names)} inputs in the graph, {len(case.feeds)} in the example"
            raise mismatch(found, "one graph input for every tensor of the example")
        options = onnxruntime.RunOptions()
        try:
            with _ended(options, patience):
                outputs: list[Any] = loaded.run(None, dict(zip(names, case.feeds, strict=True)), options)
        except Exception as error:  # see session
            if patience is not None and options.terminate:
                raise mismatch(f"onnxruntime takes over {patience} s {case.label}", "a run that ends", remedy) from None
            raise mismatch(f"onnxruntime fails {case.label} ({reason(error)})", "a file that runs", remedy) from error
        return outputs

    return run


@contextmanager
def _ended(options: Any, patience: float | None) -> Iterator[None]:
    """The run with these options ends after so many seconds, if any are given."""
    if patience is None:
        yield
        return
    timer = Timer(patience, setattr, (options, "terminate", True))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def reference_answers(model: Path | onnx.ModelProto) -> Answer:
    """What ONNX's own reference evaluator answers: for types that onnxruntime has no kernels for."""
    try:
        evaluator = ReferenceEvaluator(model if isinstance(model, onnx.ModelProto) else str(model))
    except Exception as error:  # every operator raises what it likes
        raise mismatch(f"ONNX's evaluator cannot load it ({reason(error)})", "a file that it loads") from error

    def run(case: Case) -> list[Any]:
        try:
            return list(evaluator.run(None, dict(zip(evaluator.input_names, case.feeds, strict=True))))
        except Exception as error:
            raise mismatch(f"ONNX's evaluator fails {case.label} ({reason(error)})", "a file that runs") from error

    return run


def remembered(answer: Answer) -> Answer:
    """The same, asked once for each case."""
    known: dict[int, list[Any]] = {}

    def run(case: Case) -> list[Any]:
        if id(case) not in known:
            known[id(case)] = answer(case)
        return known[id(case)]

    return run


def agree(answer: Answer, other: Answer, case: Case) -> bool:
    """True where both answer the very same."""
    return difference(answer, other, case) == 0.0


def difference(answer: Answer, reference: Answer, case: Case, remedy: str = _LOOK) -> float:
    """The error of :func:`verify` in one case. Raises VerificationError where there is nothing to compare."""
    wanted = reference(case)
    if any(y.dtype.kind in "fc" and np.isnan(y).any() for y in _leaves(wanted)):
        found = f"the reference model itself answers NaN {case.label}, so there is nothing to compare with"
        raise mismatch(found, "a reference that answers numbers", "choose another example")
    actual = answer(case)
    forms = _form(actual), _form(wanted)
    if forms[0] != forms[1]:
        found, needed = map(reprlib.repr, forms)
        raise mismatch(f"outputs of shapes {found} {case.label}", f"the reference's {needed}", remedy)
    return max(map(_error, _leaves(actual), _leaves(wanted)), default=0.0)


def _form(y: Any) -> object:
    """The shape of an array, those of a sequence's elements, those behind a map's keys; None for an optional that is
    not there."""
    if isinstance(y, Mapping):
        return {key: _form(value) for key, value in y.items()}
    if isinstance(y, (list, tuple)):
        return [_form(value) for value in y]
    return None if y is None else np.shape(y)


def _leaves(y: Any) -> Iterator[Array]:
    """Its arrays, in an order that forms that are equal have in common."""
    if isinstance(y, Mapping):
        for key in sorted(y):
            yield from _leaves(y[key])
    elif isinstance(y, (list, tuple)):
        for value in y:
            yield from _leaves(value)
    elif y is not None:
        yield _exact(y)


def _exact(y: Any) -> Array:
    """Values in float64, which holds those of every narrower type exactly; integers, booleans and strings as they
    are."""
    array = np.asarray(y)
    if array.dtype.kind in "biuc":
        return array
    return array.astype(object if array.dtype.kind in "OUS" else np.float64)


def _error(actual: Array, wanted: Array) -> float:
    same = actual == wanted
    if np.all(same):
        return 0.0
    if wanted.dtype.kind not in "fc":
        return float("inf")
    finite = np.abs(wanted[np.isfinite(wanted)])
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(actual - wanted))
    return float(np.nan_to_num(difference, nan=np.inf).max() / max(1.0, finite.max(initial=0.0)))


def mismatch(found: str, needed: str, remedy: str = _LOOK) -> VerificationError:
    """The sentence of a verification that failed."""
    return VerificationError("", found, needed, remedy)
