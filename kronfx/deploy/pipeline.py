"""From a dense graph to a verified file: the way that an exported torch model and any ONNX file share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from kronfx.deploy.choose.tuning import Chosen, Lowerings, choose
from kronfx.deploy.choose.whole_files import ends, latencies, race, winner
from kronfx.deploy.find.layers import Found, Known, found_layers, moved
from kronfx.deploy.lower.lowerings import LOWERINGS
from kronfx.deploy.lower.rewrite import rewrite
from kronfx.deploy.nodes.values import content, tensor_of
from kronfx.deploy.opening import Original
from kronfx.deploy.options import Tuning
from kronfx.deploy.prove.cases import Case
from kronfx.deploy.prove.proof import Proof
from kronfx.deploy.prove.verify import answers, check, timed_session, verify
from kronfx.deploy.records.report import ExportedLayer, ExportReport
from kronfx.deploy.write import save, signed, terse, untyped
from kronfx.errors import ExportError, VerificationError
from kronfx.files import staged, unwritable
from kronfx.records import Lowering

Step = Callable[[str], None]
_UNCHANGED = "nothing here makes it smaller or faster: the new file is the source's own bytes"
_SLOW = "the lowerings that were fastest layer by layer were slower as a whole: every layer runs dense"


@dataclass(frozen=True, slots=True)
class Source:
    """A dense graph and what is known of its weights; ``notes`` end up in the report.

    ``original`` is the file that it was read from, if it was, and ``changes`` are notes on what was done to that.
    """

    model: ir.Model
    known: tuple[Known, ...] = ()
    block: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    original: Original | None = None


def deploy(source: Source, target: Path, tuning: Tuning, proof: Proof | None, step: Step) -> ExportReport:
    """Choose lowerings, write the file, time and verify it; it takes its name when all that is done.

    Under ``auto`` whole files race, see :mod:`kronfx.deploy.choose.whole_files`: where the dense one is as fast, every
    layer runs dense.
    """
    step("looking at the weights")
    found = found_layers(source.model.graph, source.known, source.block)
    chosen = choose(found.layers, tuning, step)
    with staged(target, ExportError) as path:
        if proof is None or proof.load is not None or not tuning.tune or _is_idle(source, found, chosen):
            step("writing")
            file = _write(source, found, chosen.lowerings, path, target)
            report = ExportReport(str(target), file.bytes, file.layers, timings=chosen.timings, notes=source.notes)
            is_faster = any(layer.lowering != "dense" for layer in file.layers)  # so it was chosen, or asked for
        else:
            report, is_faster = _raced(source, found, chosen, path, target, ends(proof.cases), step)
        report = _worth_it(report, is_faster, source, path)
        return report if proof is None else _verified(report, path, source, proof, step)


def _is_idle(source: Source, found: Found, chosen: Chosen) -> bool:
    """True where there is nothing to store in fewer bytes and nothing to lower: nothing to time either."""
    lowered = any(lowering != "dense" for contender in chosen.contenders for lowering in contender)
    stored = [layer.storage for layer in found.layers] + [held.storage for held in found.held]
    return source.original is not None and not lowered and not any(stored)


def _worth_it(report: ExportReport, is_faster: bool, source: Source, path: Path) -> ExportReport:
    """The file at ``path`` if it is smaller or faster than the one that it was made of; that very one if it is not."""
    original = source.original
    if original is None:
        return report
    if is_faster or report.bytes < original.bytes:
        return replace(report, dense_bytes=original.bytes, notes=(*source.changes, *report.notes))
    for file in path.parent.iterdir():
        file.unlink()
    try:
        size = original.copy(path)
    except OSError as refused:
        raise unwritable(report.path, refused.strerror or str(refused), ExportError) from refused
    return replace(
        report,
        bytes=size,
        layers=tuple(map(_as_it_was, report.layers)),
        load_seconds=report.dense_load_seconds,
        dense_bytes=original.bytes,
        latency=tuple(replace(run, seconds=run.dense) for run in report.latency),
        notes=(*report.notes, _UNCHANGED),
    )


def _as_it_was(layer: ExportedLayer) -> ExportedLayer:
    """The row of a layer that is not lowered after all; one that is stored in few bytes was so in the source."""
    return layer if layer.lowering == "dense" else replace(layer, lowering="dense", bytes=layer.dense_bytes)


@dataclass(frozen=True, slots=True)
class _File:
    bytes: int
    layers: tuple[ExportedLayer, ...]


def _write(source: Source, found: Found, lowerings: Lowerings, path: Path, target: Path) -> _File:
    """The graph with every layer lowered as said, at ``path``, where it waits for its name, ``target``."""
    model = source.model.clone()
    found = moved(found, model.graph)
    chosen = {layer.linear.node: lowering for layer, lowering in zip(found.layers, lowerings, strict=True)}
    layers = exported(found, chosen)
    rewrite(model, found, chosen)
    return _File(save(terse(untyped(signed(model, layers))), path, target), layers)


def _raced(
    source: Source, found: Found, chosen: Chosen, path: Path, target: Path, cases: Sequence[Case], step: Step
) -> tuple[ExportReport, bool]:
    """The fastest file, at ``path``, with what it takes beside the dense one, and whether it beats that.

    The dense one is the source as it is on disk, if there is one.
    """
    contenders = chosen.contenders
    step("writing")
    with TemporaryDirectory(dir=path.parent) as folder:
        paths = [Path(folder) / str(i) / path.name for i in range(len(contenders) + 1)]
        for own in paths:
            own.parent.mkdir()
        if source.original is not None:
            paths[0], dense_bytes = source.original.path, source.original.bytes
        else:
            dense_bytes = save(untyped(source.model.clone()), paths[0], target)
        pairs = zip(contenders, paths[1:], strict=True)
        files = [_write(source, found, contender, own, target) for contender, own in pairs]
        step("timing it against the dense file")
        dense, *laps = race(paths, cases)
        fastest = winner(dense, laps)
        best = fastest if chosen.boldest is not None else 0
        if best is None and chosen.dense in contenders:
            best = contenders.index(chosen.dense)
        if best is not None:
            file, lap, notes = files[best], laps[best], source.notes
            for part in paths[best + 1].parent.iterdir():
                part.replace(path.with_name(part.name))
    if best is None:
        file, notes = _write(source, found, chosen.dense, path, target), (*source.notes, _SLOW)
        (lap,) = race((path,), cases)
    report = ExportReport(
        str(target),
        file.bytes,
        file.layers,
        load_seconds=lap.load,
        dense_bytes=dense_bytes,
        dense_load_seconds=dense.load,
        latency=latencies(cases, dense, lap),
        timings=chosen.timings,
        notes=notes,
    )
    return report, fastest is not None


def exported(found: Found, chosen: dict[ir.Node, Lowering]) -> tuple[ExportedLayer, ...]:
    """The rows of the report: what each layer becomes and what the file stores for it."""
    rows: dict[str, ExportedLayer] = {}
    stored: set[object] = set()
    names: dict[tuple[ir.Value, bool], str] = {}
    for layer in found.layers:
        lowering, linear = chosen[layer.linear.node], layer.linear
        either = frozenset((content(linear.W), content(linear.W.T)))  # a weight and its transpose are stored once
        entry: object = either if lowering == "dense" else (layer.name, lowering)
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
        size = held.storage.bytes if held.storage is not None else dense
        row = ExportedLayer(
            site, *held.kept.dims, shape.block, "dense", held.kept.zero_blocks, shape.blocks, dense, size
        )
        rows.setdefault(site, row)
    return tuple(rows.values())


def _verified(report: ExportReport, path: Path, source: Source, proof: Proof, step: Step) -> ExportReport:
    """With what the proof found: the file is valid, and answers what the reference answers."""
    notes = report.notes
    try:
        check(path)
    except VerificationError:
        flaw = _flaw(source, path)
        if flaw is None:
            raise
        notes = (*notes, f"the source is no valid ONNX ({flaw}), and so neither is the new file; onnxruntime runs both")
    step("verifying")
    load = report.load_seconds
    if proof.load is not None:
        answer = proof.load(path)
    else:
        session, seconds = timed_session(path)
        answer, load = answers(session, proof.remedy), load or seconds
    found = verify(answer, proof.reference, proof.cases, proof.tolerance, proof.remedy)
    return replace(
        report,
        load_seconds=load,
        batch_sizes=found.batch_sizes,
        max_error=found.max_error,
        tolerance=found.tolerance,
        runtime=proof.runtime,
        notes=notes,
    )


def _flaw(source: Source, path: Path) -> str | None:
    """What is wrong with a source, as it was opened, already; None where nothing, or where it is no file."""
    if source.original is None:
        return None
    with TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / path.name
        save(untyped(source.model.clone()), file, path)
        try:
            check(file)
        except VerificationError as error:
            return error.found
    return None
