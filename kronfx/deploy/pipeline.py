"""From a dense graph to a verified file: the way that an exported torch model and any ONNX file share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from kronfx.deploy.choose.rows import exported
from kronfx.deploy.choose.tuning import BEST, Chosen, Contender, choose
from kronfx.deploy.choose.whole_files import ends, latencies, race, winner
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.find.layers import LinearMaps, linear_maps, moved
from kronfx.deploy.find.left import left_constants, left_weights
from kronfx.deploy.lower.rewrite import rewrite
from kronfx.deploy.options import Options
from kronfx.deploy.prove.cases import Case
from kronfx.deploy.prove.verify import Answer, answers, check, reference_answers, timed_session, verify
from kronfx.deploy.records.report import ExportedLayer, ExportReport
from kronfx.deploy.write import save, signed, terse, untyped
from kronfx.errors import ExportError
from kronfx.files import staged

Step = Callable[[str], None]
_SOURCE = "source"  # the dense file, in a race with the contenders
_SLOW = "the lowerings that were fastest layer by layer were slower as a whole: every layer runs dense"


@dataclass(frozen=True, slots=True)
class Source:
    """A dense graph and the weights that are known of it; ``notes`` end up in the report."""

    model: ir.Model
    weights: tuple[KnownWeight, ...] = ()
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


def proof_of(reference: Answer, cases: Sequence[Case], tolerance: float, is_bfloat16: bool) -> Proof:
    """Held against ``reference`` in onnxruntime; in ONNX's own for bfloat16, of which that has no kernels on CPUs."""
    if is_bfloat16:
        return Proof(reference, cases, tolerance, reference_answers, "ONNX's reference evaluator")
    return Proof(reference, cases, tolerance)


def deploy(source: Source, target: Path, options: Options, proof: Proof | None, step: Step) -> ExportReport:
    """Choose lowerings, write the file, time and verify it; it takes its name when all that is done.

    Under ``auto`` whole files race, see :mod:`kronfx.deploy.choose.whole_files`: where the dense one is as fast, every
    layer runs dense.
    """
    step("looking at the weights")
    maps = linear_maps(source.model.graph, source.weights, source.block)
    maps = replace(maps, left=left_constants(source.model.graph, maps, source.block))
    chosen = choose(maps.layers, options, step)
    with staged(target, ExportError) as path:
        if proof is None or proof.load is not None or not options.tune:
            step("writing")
            file = _write(source, maps, chosen.best, path, target)
            report = ExportReport(str(target), file.bytes, file.layers, notes=source.notes)
        else:
            report = _raced(source, maps, chosen, path, target, ends(proof.cases), step)
        report = replace(report, timings=chosen.timings, left=left_weights(maps.left))
        return report if proof is None else _verified(report, path, proof, step)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    bytes: int
    layers: tuple[ExportedLayer, ...] = ()


def _write(source: Source, maps: LinearMaps, contender: Contender, path: Path, target: Path) -> _File:
    """The graph with every layer lowered as said, at ``path``, where it waits for its name, ``target``."""
    model = source.model.clone()
    maps = moved(maps, model.graph)
    layers = exported(maps, contender)
    nodes = [layer.linear.node for layer in maps.layers]
    rewrite(model, maps, dict(zip(nodes, contender.lowerings, strict=True)))
    return _File(path, save(terse(untyped(signed(model, layers))), path, target), layers)


def _raced(
    source: Source, maps: LinearMaps, chosen: Chosen, path: Path, target: Path, cases: Sequence[Case], step: Step
) -> ExportReport:
    """The fastest file, at ``path``, and what it takes beside the dense one."""
    contenders, notes = chosen.contenders, source.notes
    with TemporaryDirectory(dir=path.parent) as folder:
        places = {name: Path(folder) / name / path.name for name in (_SOURCE, *contenders)}
        for place in places.values():
            place.parent.mkdir()
        step("writing")
        dense_bytes = save(untyped(source.model.clone()), places[_SOURCE], target)
        files = {name: _write(source, maps, one, places[name], target) for name, one in contenders.items()}
        step("timing it against the dense file")
        laps = race(places, cases)
        best = _best(chosen, winner(laps, _SOURCE))
        if best is not None:
            _move(files[best].path, path)
    if best is not None:
        file, lap = files[best], laps[best]
    else:
        file, notes = _write(source, maps, chosen.dense, path, target), (*notes, _SLOW)
        lap = race({"dense": path}, cases)["dense"]
    return ExportReport(
        path=str(target),
        bytes=file.bytes,
        layers=file.layers,
        load_seconds=lap.load,
        dense_bytes=dense_bytes,
        dense_load_seconds=laps[_SOURCE].load,
        latency=latencies(cases, laps[_SOURCE], lap),
        notes=notes,
    )


def _best(chosen: Chosen, fastest: str | None) -> str | None:
    """The contender that ships: what was asked for, or the fastest; None where all lost to the dense file.

    One that runs dense throughout does not lose to it: it stores less.
    """
    if not chosen.races:
        return BEST
    dense = (name for name, contender in chosen.contenders.items() if contender == chosen.dense)
    return fastest or next(dense, None)


def _move(file: Path, path: Path) -> None:
    """The file, and the data beside it, to where they wait for their name."""
    for part in file.parent.iterdir():
        part.replace(path.with_name(part.name))


def _verified(report: ExportReport, path: Path, proof: Proof, step: Step) -> ExportReport:
    """With what the proof showed: the file is valid, and answers what the reference answers."""
    check(path)
    step("verifying")
    load = report.load_seconds
    if proof.load is not None:
        answer = proof.load(path)
    else:
        session, seconds = timed_session(path)
        answer, load = answers(session), load or seconds
    verified = verify(answer, proof.reference, proof.cases, proof.tolerance)
    return replace(
        report,
        load_seconds=load,
        batch_sizes=verified.batch_sizes,
        max_error=verified.max_error,
        tolerance=verified.tolerance,
        runtime=proof.runtime,
    )
