"""Every model of ONNX's own backend tests: written and equal, or refused with a sentence."""

from __future__ import annotations

import logging
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

import kronfx as kx

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
SECONDS, SLACK = 10, 1000  # for one model; bytes that a file may be larger than its source


def models() -> Iterator[tuple[str, bytes, list[Any] | None]]:
    """Name, content and, where it is at hand, inputs by position."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some compute infinities on purpose
        for kind in KINDS:
            for case in load_model_tests(kind=kind):
                if case.model is not None:
                    inputs = [array_of(value) for value in case.data_sets[0][0]] if case.data_sets else None
                    yield case.name, case.model.SerializeToString(), inputs
                elif case.model_dir is not None:
                    folder = Path(case.model_dir)
                    yield case.name, (folder / "model.onnx").read_bytes(), stored_inputs(folder)


def array_of(value: Any) -> Any:
    """What a message holds; arrays, lists and None are what they are."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    return value


def stored_inputs(folder: Path) -> list[Any] | None:
    """Of the first data set; None where they are no tensors."""
    files = sorted((folder / "test_data_set_0").glob("input_*.pb"), key=lambda file: int(file.stem.split("_")[1]))
    try:
        return [numpy_helper.to_array(onnx.load_tensor(file)) for file in files]
    except Exception:  # sequences and maps have messages of their own
        return None


def outcome(folder: Path, content: bytes, inputs: list[Any] | None) -> str:
    """``written``, the kind of its refusal, or what is wrong."""
    src, dst = folder / "m.onnx", folder / "out.onnx"
    dst.unlink(missing_ok=True)
    src.write_bytes(content)
    graph = onnx.ModelProto.FromString(content).graph
    constants = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in constants]
    example = dict(zip(names, inputs, strict=False)) if inputs is not None and len(inputs) >= len(names) else None
    try:
        report = kx.sparsify_onnx(src, dst, tune=False, batch_sizes=(1,), example_inputs=example)
    except kx.KronfxError as refused:
        sentence = str(refused)
        return "refused" if sentence.count("; ") >= 2 and not dst.exists() else f"no sentence: {sentence}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if report.max_error is None or report.bytes != dst.stat().st_size or report.bytes > len(content) + SLACK:
        return f"wrong: {report.bytes} bytes of {len(content)}, error {report.max_error}"
    return "written"


def outcomes(folder: Path, every: int) -> tuple[Counter[str], dict[str, str]]:
    """How often what came out, and of which models something that must not."""
    counts, wrong = Counter[str](), {}
    logging.disable(logging.CRITICAL)
    try:
        for i, (name, content, inputs) in enumerate(models()):
            if i % every:
                continue
            signal.alarm(SECONDS)  # ends the process where something hangs
            found = outcome(folder, content, inputs)
            signal.alarm(0)
            counts[found if found in ("written", "refused") else "wrong"] += 1
            if found not in ("written", "refused"):
                wrong[name] = found
    finally:
        logging.disable(logging.NOTSET)
    return counts, wrong


def test_every_model_of_onnxs_backend_tests(tmp_path: Path) -> None:
    counts, wrong = outcomes(tmp_path, every=1)
    assert wrong == {}
    assert counts["written"] > 3 * counts["refused"], counts
    assert counts.total() > 1500


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        found, faults = outcomes(Path(place), every=1)
        print("\n".join(f"{name}: {fault}" for name, fault in faults.items()))
        print(dict(found))
