"""From a dense graph to a verified file: the way that an exported torch model and any ONNX file share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from kronfx.deploy.cases import Case
from kronfx.deploy.layers import Found, Known, found_layers
from kronfx.deploy.lowerings import LOWERINGS
from kronfx.deploy.records import ExportedLayer, ExportReport, Latency
from kronfx.deploy.rewrite import rewrite
from kronfx.deploy.tuning import Chosen, Tuning, choose, run_seconds
from kronfx.deploy.verify import Answer, answers, check, reference_answers, timed_session, verify
from kronfx.deploy.weights import content, tensor_of
from kronfx.deploy.write import save, signed, untyped
from kronfx.errors import ExportError
from kronfx.files import staged
from kronfx.records import Lowering

Step = Callable[[str], None]
SLOWER = 1 / 0.97  # of the dense file's time: what takes longer is not shipped
_SLOW = "the lowerings that were fastest layer by layer were slower as a whole: every layer runs dense"
_SECONDS = 0.25  # of timing, a file and a case


@dataclass(frozen=True, slots=True)
class Source:
    """A dense graph and what is known of its weights; ``notes`` end up in the report."""

    model: ir.Model
    known: tuple[Known, ...] = ()
    block: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """What the file is held against: a ``reference``, the ``cases`` and the ``tolerance``.

    ``load`` makes answers of a file, where that is not onnxruntime.
    """

    reference: Answer
    cases: Sequence[Case]
    tolerance: float
    load: Callable[[Path], Answer] | None = None
    runtime: str = "onnxruntime"


def proof_of(reference: Answer, cases: Sequence[Case], tolerance: float, brain: bool) -> Proof:
    """Held against ``reference`` in onnxruntime; in ONNX's own for bfloat16, of which that has no kernels on CPUs."""
    if brain:
        return Proof(reference, cases, tolerance, reference_answers, "ONNX's reference evaluator")
    return Proof(reference, cases, tolerance)


def deploy(source: Source, target: Path, tuning: Tuning, proof: Proof | None, step: Step) -> ExportReport:
    """Lower the graph, write it, verify it, time it against the dense file; it takes its name when all that is done.

    Where ``auto`` turns out slower than the dense file as a whole, the dense lowering is written instead.
    """
    step("looking at the weights")
    with staged(target, ExportError) as path:
        report, is_dense = _written(source, target, path, tuning, proof, step)
        if tuning.lowering == "auto" and not is_dense and _is_slower(report):
            dense = replace(tuning, lowering="dense", timings=report.timings)
            report, _ = _written(replace(source, notes=(*source.notes, _SLOW)), target, path, dense, proof, step)
    return report


def _written(
    source: Source, target: Path, path: Path, tuning: Tuning, proof: Proof | None, step: Step
) -> tuple[ExportReport, bool]:
    """The file at ``path``, verified and timed; and whether it holds nothing but dense products."""
    model, chosen, layers = _lowered(source, tuning, step)
    step("writing")
    report = ExportReport(str(target), save(model, path), layers, timings=chosen.timings, notes=source.notes)
    if proof is None:
        return report, chosen.is_dense
    check(path)
    step("verifying")
    if proof.load is not None:
        return _verified(report, proof.load(path), proof), chosen.is_dense
    session, seconds = timed_session(path)
    report = replace(_verified(report, answers(session), proof), load_seconds=seconds)
    del session
    if tuning.tune:
        step("timing it against the dense file")
        report = _timed(report, source, path, proof)
    return report, chosen.is_dense


def _lowered(source: Source, tuning: Tuning, step: Step) -> tuple[ir.Model, Chosen, tuple[ExportedLayer, ...]]:
    model = source.model.clone()
    found = found_layers(model.graph, source.known, source.block)
    chosen = choose(found.layers, tuning, step)
    layers = exported(found, chosen.lowerings)
    rewrite(model, found, chosen.lowerings)
    return untyped(signed(model, layers)), chosen, layers


def exported(found: Found, chosen: dict[ir.Node, Lowering]) -> tuple[ExportedLayer, ...]:
    """The rows of the report: what each layer becomes and what the file stores for it."""
    rows: dict[str, ExportedLayer] = {}
    stored: set[object] = set()
    names: dict[tuple[ir.Value, bool], str] = {}
    for layer in found.layers:
        lowering, linear = chosen[layer.linear.node], layer.linear
        entry: object = content(linear.W) if lowering == "dense" else (layer.name, lowering)
        size = 0 if entry in stored else LOWERINGS[lowering].stored(layer)
        stored.add(entry)
        key = linear.weight, linear.turned
        name = names.setdefault(key, layer.name if layer.name not in rows else f"{layer.name}/{len(rows)}")
        shape = layer.shape
        grid, zero, blocks = (shape.block, layer.kept.zero_blocks, shape.blocks) if shape.blocks > 1 else (None, 0, 0)
        row = ExportedLayer(name, *layer.kept.dims, grid, lowering, zero, blocks, layer.dense_bytes, size)
        rows.setdefault(name, row)
    for held in found.held:
        shape, site = held.known.shape, held.known.site
        dense = tensor_of(held.value).nbytes
        size = held.kept.bytes if held.kept.pays else dense
        row = ExportedLayer(
            site, *held.kept.dims, shape.block, "dense", held.kept.zero_blocks, shape.blocks, dense, size
        )
        rows.setdefault(site, row)
    return tuple(rows.values())


def _verified(report: ExportReport, answer: Answer, proof: Proof) -> ExportReport:
    found = verify(answer, proof.reference, proof.cases, proof.tolerance)
    return replace(
        report,
        batch_sizes=found.batch_sizes,
        max_error=found.max_error,
        tolerance=found.tolerance,
        runtime=proof.runtime,
    )


def _timed(report: ExportReport, source: Source, path: Path, proof: Proof) -> ExportReport:
    """With latencies of the dense file and of this one, at the first and the last case, one session at a time."""
    shown = proof.cases if len(proof.cases) < 2 else (proof.cases[0], proof.cases[-1])
    with TemporaryDirectory(dir=path.parent) as folder:
        dense_path = Path(folder) / path.name
        dense_bytes = save(untyped(source.model.clone()), dense_path)
        before, dense_load = _seconds(dense_path, shown)
    after, load = _seconds(path, shown)
    latency = tuple(Latency(case.batch, b, a) for case, b, a in zip(shown, before, after, strict=True))
    return replace(report, dense_bytes=dense_bytes, latency=latency, load_seconds=load, dense_load_seconds=dense_load)


def _seconds(path: Path, cases: Sequence[Case]) -> tuple[list[float], float]:
    session, load = timed_session(path)
    names: list[Any] = [value.name for value in session.get_inputs()]
    taken = [run_seconds(session, dict(zip(names, case.feeds, strict=True)), _SECONDS) for case in cases]
    return taken, load


def _is_slower(report: ExportReport) -> bool:
    return any(run.seconds > SLOWER * run.dense for run in report.latency)
