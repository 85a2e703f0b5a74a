"""The ONNX column: what a written file answers in stock onnxruntime, and whether torch can write one at all."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import Tensor, nn

import kronfx as kx
from zoo.entry import Entry, Inputs, call
from zoo.outcome import Outcome, deviation, judged

EXAMPLE, BATCHES = 2, (1, 3)  # none of the sizes verified is the one that was traced


def deploy(entry: Entry, folded: nn.Module) -> Outcome:
    """Export the folded model and compare; where torch cannot export the dense model either, say why instead."""
    try:
        outcome = _compared(entry, folded, _by_kronfx)
    except Exception as error:  # an exporter raises anything
        outcome = Outcome("fails", _cause(error))
    if outcome.verdict == "holds":
        return outcome
    limit = _limit_of_torch(entry)
    return Outcome("open", f"torch.onnx.export of the dense model: {limit}") if limit else outcome


def _limit_of_torch(entry: Entry) -> str:
    """Why torch's own export of the dense model does not give a file with the same answers; empty where it does."""
    try:
        outcome = _compared(entry, entry.model(), _by_torch)
    except Exception as error:  # see deploy
        return _cause(error)
    return outcome.text if outcome.verdict == "fails" else ""


def _compared(entry: Entry, model: nn.Module, export: Callable[[Entry, nn.Module, Path], None]) -> Outcome:
    """The largest deviation of the written file from the model, over the batch sizes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with _quiet():
            export(entry, model, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return judged(max(_at_batch(session, model, entry.batch(size)) for size in BATCHES))


@torch.no_grad()
def _at_batch(session: onnxruntime.InferenceSession, model: nn.Module, batch: Inputs) -> float:
    names = [value.name for value in session.get_inputs()]
    by_name = batch if isinstance(batch, Mapping) else dict(zip(names, batch, strict=True))
    answers = session.run(None, {name: by_name[name].numpy() for name in names})
    return deviation([torch.from_numpy(answer) for answer in answers], call(model, batch))


def _by_kronfx(entry: Entry, model: nn.Module, path: Path) -> None:
    kx.export_onnx(model, path, entry.batch(EXAMPLE), verify=False)  # verified right here, with real batches


def _by_torch(entry: Entry, model: nn.Module, path: Path) -> None:
    batch = entry.batch(EXAMPLE)
    args, kwargs = ((), batch) if isinstance(batch, Mapping) else (batch, {})
    shapes = {name: _free(x) for name, x in batch.items()} if isinstance(batch, Mapping) else tuple(map(_free, batch))
    torch.onnx.export(model, args, path, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False)


def _free(tensor: Tensor) -> dict[int, str] | None:
    return {0: "batch"} if tensor.shape[0] == EXAMPLE else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No word from the exporters: what matters is in the table."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _cause(error: BaseException) -> str:
    """The first line of what lies at the bottom of a chain of exceptions."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
