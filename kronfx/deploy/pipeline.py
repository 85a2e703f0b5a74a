"""From a dense graph to a verified file: the way that an exported torch model and any ONNX file share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir

from kronfx.deploy.choose.tuning import Chosen, Lowerings, choose
from kronfx.deploy.choose.whole_files import ends, latencies, race, winner
from kronfx.deploy.find.layers import Found, Held, Known, Layer, found_layers, moved
from kronfx.deploy.find.packed import Packed
from kronfx.deploy.lower.lowerings import LOWERINGS
from kronfx.deploy.lower.rewrite import rewrite
from kronfx.deploy.nodes.values import content, tensor_of
from kronfx.deploy.options import Tuning
from kronfx.deploy.prove.cases import Case
from kronfx.deploy.prove.verify import Answer, answers, check, reference_answers, timed_session, verify
from kronfx.deploy.records.report import ExportedLayer, ExportReport
from kronfx.deploy.write import save, signed, terse, untyped
from kronfx.errors import ExportError
from kronfx.files import staged
from kronfx.records import Lowering

Step = Callable[[str], None]
_SLOW = "the lowerings that were fastest layer by layer were slower as a whole: every layer runs dense"


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
    """Choose lowerings, write the file, time and verify it; it takes its name when all that is done.

    Under ``auto`` whole files race, see :mod:`kronfx.deploy.choose.whole_files`: where the dense one is as fast, every
    layer runs dense.
    """
    step("looking at the weights")
    found = found_layers(source.model.graph, source.known, source.block)
    chosen = choose(found.layers, tuning, step)
    with staged(target, ExportError) as path:
        if proof is None or proof.load is not None or not tuning.tune or _is_idle(found, chosen):
            step("writing")
            file = _write(source, found, chosen.lowerings, path, target)
            report = ExportReport(str(target), file.bytes, file.layers, timings=chosen.timings, notes=source.notes)
        else:
            report = _raced(source, found, chosen, path, target, ends(proof.cases), step)
        return report if proof is None else _verified(report, path, proof, step)


def _is_idle(found: Found, chosen: Chosen) -> bool:
    """Nothing is lowered or stored in another way: there is nothing to race."""
    weights: tuple[Layer | Held | Packed, ...] = (*found.layers, *found.held, *found.packed)
    return chosen.contenders == (chosen.dense,) and all(weight.storage is None for weight in weights)


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
) -> ExportReport:
    """The fastest file, at ``path``, and what it takes beside the dense one."""
    contenders = chosen.contenders
    step("writing")
    with TemporaryDirectory(dir=path.parent) as folder:
        paths = [Path(folder) / str(i) / path.name for i in range(len(contenders) + 1)]
        for own in paths:
            own.parent.mkdir()
        dense_bytes = save(untyped(source.model.clone()), paths[0], target)
        pairs = zip(contenders, paths[1:], strict=True)
        files = [_write(source, found, contender, own, target) for contender, own in pairs]
        step("timing it against the dense file")
        dense, *laps = race(paths, cases)
        best = winner(dense, laps) if chosen.boldest is not None else 0
        if best is None and chosen.dense in contenders:
            best = contenders.index(chosen.dense)
        if best is not None:
            file, lap, notes = files[best], laps[best], source.notes
            for part in paths[best + 1].parent.iterdir():
                part.replace(path.with_name(part.name))
    if best is None:
        file, notes = _write(source, found, chosen.dense, path, target), (*source.notes, _SLOW)
        (lap,) = race((path,), cases)
    return ExportReport(
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


def exported(found: Found, chosen: dict[ir.Node, Lowering]) -> tuple[ExportedLayer, ...]:
    """The rows of the report: what each layer becomes and what the file stores for it."""
    rows: dict[str, ExportedLayer] = {}
    stored: set[object] = set()
    names: dict[tuple[ir.Value, bool], str] = {}
    for layer in found.layers:
        lowering, linear = chosen[layer.linear.node], layer.linear
        entry: object = _stored(layer) if lowering == "dense" else (layer.name, lowering)
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
    for packed in found.packed:
        blobs = packed.kept[0]
        row = ExportedLayer(
            packed.site,
            *packed.dims,
            packed.block,
            "dense",
            blobs.zero_blocks,
            blobs.shape.blocks,
            packed.dense_bytes,
            packed.bytes,
        )
        rows.setdefault(packed.site, row)
    return tuple(rows.values())


def _stored(layer: Layer) -> object:
    """What tells apart what the file keeps of layers that run dense: equal weights are stored once, turned or not."""
    W = layer.linear.W
    return layer.linear.weight if layer.storage is None else frozenset((content(W), content(W.T)))


def _verified(report: ExportReport, path: Path, proof: Proof, step: Step) -> ExportReport:
    """With what the proof found: the file is valid, and answers what the reference answers."""
    check(path)
    step("verifying")
    load = report.load_seconds
    if proof.load is not None:
        answer = proof.load(path)
    else:
        session, seconds = timed_session(path)
        answer, load = answers(session), load or seconds
    found = verify(answer, proof.reference, proof.cases, proof.tolerance)
    return replace(
        report,
        load_seconds=load,
        batch_sizes=found.batch_sizes,
        max_error=found.max_error,
        tolerance=found.tolerance,
        runtime=proof.runtime,
    )
