"""From a dense graph to a verified file: the way that an exported torch model and any ONNX file share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from kronfx.deploy.choose.rows import exported
from kronfx.deploy.choose.tuning import BEST, Chosen, Contender, choose
from kronfx.deploy.choose.whole_files import ends, latencies, race, winner
from kronfx.deploy.find.convolutions import factored_convolutions
from kronfx.deploy.find.known import PlacedWeight
from kronfx.deploy.find.layers import Layer, LinearMaps, linear_maps, moved
from kronfx.deploy.find.left import left_constants, left_weights
from kronfx.deploy.find.packed import Packed
from kronfx.deploy.find.stored import LeftConstant
from kronfx.deploy.lower.rewrite import rewrite
from kronfx.deploy.lower.sharing import sharing
from kronfx.deploy.opening import Original
from kronfx.deploy.opening.replaced import data_of, remove_unread
from kronfx.deploy.options import Options
from kronfx.deploy.prove.cases import Case
from kronfx.deploy.prove.proof import Proof
from kronfx.deploy.prove.verify import answers, check, timed_session, verify
from kronfx.deploy.records.report import ExportedLayer, ExportReport
from kronfx.deploy.source import Source
from kronfx.deploy.write import save, signed, terse, untyped
from kronfx.errors import ExportError, VerificationError
from kronfx.files import staged, unwritable

Step = Callable[[str], None]
STAGES = 6  # reading or capturing, and those that are named below
_SOURCE = "source"  # the dense file, in a race with the contenders
_UNCHANGED = "nothing here makes it smaller or faster: the new file is the source's own bytes"
_SLOW = "the lowerings that were fastest layer by layer were slower as a whole: every layer runs dense"


def deploy(source: Source, target: Path, options: Options, proof: Proof | None, step: Step) -> ExportReport:
    """Choose lowerings, write the file, time and verify it; it takes its name when all that is done.

    Under ``auto`` whole files race, see :mod:`kronfx.deploy.choose.whole_files`: where the dense one is as fast, every
    layer runs dense.
    """
    step("looking at the weights")
    maps = linear_maps(source.model.graph, source.weights, source.block)
    maps = replace(
        maps,
        left=left_constants(source.model.graph, maps, source.block),
        convolutions=factored_convolutions(source.model.graph, source.convolutions),
    )
    step("choosing the lowerings")
    chosen = choose(maps.layers, options)
    before = _unread(source.original, target)
    with staged(target, ExportError) as path:
        if proof is None or proof.load is not None or not options.tune or _is_idle(maps, chosen):
            step("writing")
            file = _write(source, maps, chosen.best, path, target)
            report = ExportReport(str(target), file.bytes, file.layers, notes=source.notes)
            is_faster = any(layer.lowering != "dense" for layer in file.layers)  # so it was chosen, or asked for
        else:
            report, is_faster = _raced(source, maps, chosen, path, target, ends(proof.cases), step)
        report = _worth_it(
            replace(report, timings=chosen.timings, left=left_weights(maps.left)), is_faster, source, path
        )
        report = report if proof is None else _verified(report, path, source, proof, step)
    return replace(report, notes=(*report.notes, *remove_unread(before, target)))


def _unread(original: Original | None, target: Path) -> dict[Path, bool]:
    """The data of the file at ``target``, where one is, that the source does not go on to need."""
    needed = () if original is None or original.path.resolve() == target else original.data
    return {place: is_whole for place, is_whole in data_of(target).items() if place not in needed}


def _worth_it(report: ExportReport, is_faster: bool, source: Source, path: Path) -> ExportReport:
    """The file at ``path`` if it is smaller or faster than the one that it was made of; that very one if it is not."""
    original = source.original
    if original is None:
        return report
    report = replace(report, source=str(original.path))
    if is_faster or report.bytes < original.bytes:
        return replace(report, dense_bytes=original.bytes, notes=(*source.changes, *report.notes))
    for file in path.parent.iterdir():
        file.unlink()
    try:
        size = original.copy(path, Path(report.path))
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


def _is_idle(maps: LinearMaps, chosen: Chosen) -> bool:
    """Nothing is lowered or stored in another way: there is nothing to race."""
    weights: tuple[Layer | PlacedWeight | Packed | LeftConstant, ...]
    weights = (*maps.layers, *maps.unread, *maps.packed, *maps.left)
    is_dense = all(contender.lowerings == chosen.dense.lowerings for contender in chosen.contenders.values())
    return is_dense and all(weight.storage is None for weight in weights)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    bytes: int
    layers: tuple[ExportedLayer, ...] = ()


def _write(source: Source, maps: LinearMaps, contender: Contender, path: Path, target: Path) -> _File:
    """The graph with every layer lowered as said, at ``path``, where it waits for its name, ``target``."""
    model = source.model.clone()
    maps = sharing(model.graph, moved(maps, model.graph), contender.lowerings)
    layers = exported(maps, contender)
    nodes = [layer.linear.node for layer in maps.layers]
    rewrite(model, maps, dict(zip(nodes, contender.lowerings, strict=True)))
    return _File(path, save(terse(untyped(signed(model, layers))), path, target), layers)


def _raced(
    source: Source, maps: LinearMaps, chosen: Chosen, path: Path, target: Path, cases: Sequence[Case], step: Step
) -> tuple[ExportReport, bool]:
    """The fastest file, at ``path``, with what it takes beside the dense one, and whether it beats that.

    The dense one is the source as it is on disk, if there is one.
    """
    contenders, notes = chosen.contenders, source.notes
    with TemporaryDirectory(dir=path.parent) as folder:
        places = {name: Path(folder) / name / path.name for name in (_SOURCE, *contenders)}
        for place in places.values():
            place.parent.mkdir()
        step("writing")
        if source.original is not None:
            places[_SOURCE], dense_bytes = source.original.path, source.original.bytes
        else:
            dense_bytes = save(untyped(source.model.clone()), places[_SOURCE], target)
        files = {name: _write(source, maps, one, places[name], target) for name, one in contenders.items()}
        step(f"timing it against the {'dense' if source.original is None else 'source'} file")
        laps = race(places, cases)
        fastest = winner(laps, _SOURCE)
        best = _best(chosen, fastest)
        if best is not None:
            _move(files[best].path, path)
    if best is not None:
        file, lap = files[best], laps[best]
    else:
        file, notes = _write(source, maps, chosen.dense, path, target), (*notes, _SLOW)
        lap = race({"dense": path}, cases)["dense"]
    report = ExportReport(
        path=str(target),
        bytes=file.bytes,
        layers=file.layers,
        load_seconds=lap.load,
        dense_bytes=dense_bytes,
        dense_load_seconds=laps[_SOURCE].load,
        latency=latencies(cases, laps[_SOURCE], lap),
        notes=notes,
    )
    return report, fastest is not None


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


def _verified(report: ExportReport, path: Path, source: Source, proof: Proof, step: Step) -> ExportReport:
    """With what the proof showed: the file is valid, and answers what the reference answers."""
    notes = report.notes
    step("verifying")
    try:
        check(path)
    except VerificationError as error:
        flaw = error.found if _UNCHANGED in notes else _flaw(source, path)
        if flaw is None:
            raise
        notes = (*notes, f"the source is no valid ONNX ({flaw}), and so neither is the new file; onnxruntime runs both")
    load = report.load_seconds
    if proof.load is not None:
        answer = proof.load(path)
    else:
        session, seconds = timed_session(path)
        answer, load = answers(session, proof.remedy), load or seconds
    verified = verify(answer, proof.reference, proof.cases, proof.tolerance, proof.remedy)
    return replace(
        report,
        load_seconds=load,
        batch_sizes=verified.batch_sizes,
        max_error=verified.max_error,
        tolerance=verified.tolerance,
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
