"""An ONNX file beside what it could be: as it is, in 8 and 4 bits by onnxruntime's own quantizers, and by kronfx.

They run by turns in onnxruntime, one session open at a time, a burst each (see ``kronfx/decisions/whole_files.md``):
a slow spell of the machine hits all of them, and of each the quietest burst counts, by its median.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
from typing_extensions import Unpack

from kronfx.deploy.choose.whole_files import race
from kronfx.deploy.opening import Original, opened
from kronfx.deploy.options import BenchKeywords, BenchOptions, SparsifyKeywords
from kronfx.deploy.prove.cases import Case, cases_of_graph, has_lengths
from kronfx.deploy.prove.verify import Answer, answers, difference, remembered, session
from kronfx.deploy.records.bench import Bench, Entrant
from kronfx.deploy.rivals import RIVALS, quantized
from kronfx.deploy.sparsify import sparsify_onnx
from kronfx.errors import KronfxError, VerificationError
from kronfx.options import keywords
from kronfx.progress import bar

AS_IT_IS, OURS = "as it is", "kronfx"
COMPOSED = ("int8",)  # rivals that kronfx takes on from


@keywords(BenchOptions)
def bench(path: str | os.PathLike[str], **wishes: Unpack[BenchKeywords]) -> Bench:
    """Measure a file beside its rivals: ``int8`` and ``int4`` of it, what kronfx makes of it, and that of its ``int8``.

    Raises ExportError, and VerificationError where the file itself does not run.
    """
    options = BenchOptions(**wishes)
    file = opened(path)
    cases = _cases(file.model.graph, options)
    deploying = _deploying(file.model.graph, options, list(cases.values()))
    with TemporaryDirectory(prefix="kronfx-") as folder:
        files = _files(file.original, deploying, Path(folder))
        return Bench(os.fspath(path), tuple(cases), _measured(file.original, files, list(cases.values())))


def _cases(graph: ir.Graph, options: BenchOptions) -> dict[str, Case]:
    """What is run, by its name; once where nothing is free."""
    cases: dict[str, Case] = {}
    is_free = has_lengths(graph)
    for rows in options.rows:
        batch, length = rows if isinstance(rows, tuple) else (1, rows) if is_free else (rows, 1)
        (case,) = cases_of_graph(graph, (batch,), options.example_inputs, (length,))
        sizes = [size for size, free in ((case.batch, True), (length, is_free)) if free and size is not None]
        name = "the example" if options.example_inputs is not None else "x".join(map(str, sizes)) or "fixed sizes"
        cases.setdefault(name, case)
    return cases


def _deploying(graph: ir.Graph, options: BenchOptions, cases: Sequence[Case]) -> SparsifyKeywords:
    """How kronfx deploys for these cases: a single one is what whole files race on."""
    counts = tuple(rows if isinstance(rows, int) else rows[0] * rows[1] for rows in options.rows)
    if len(cases) > 1:
        return {"rows": counts, "batch_sizes": tuple(case.batch for case in cases if case.batch) or (1,)}
    names = [value.name or "" for value in graph.inputs if not value.is_initializer()]
    return {"rows": counts, "example_inputs": dict(zip(names, cases[0].feeds, strict=True))}


def _files(original: Original, deploying: SparsifyKeywords, folder: Path) -> dict[str, Path | str]:
    """Every file by its name, or why there is none."""

    def made(name: str, make: Callable[[Path], object]) -> Path | str:
        target = folder / name / original.path.name
        target.parent.mkdir()
        try:
            make(target)
        except KronfxError as error:
            return str(error)
        return target

    files: dict[str, Path | str] = {AS_IT_IS: original.path}
    with bar("bench", len(RIVALS)) as step:
        for rival in RIVALS:
            step(f"quantizing to {rival}")
            files[rival] = made(rival, partial(quantized, rival, original.path))
    files[OURS] = made(OURS, partial(_sparsified, original.path, deploying))
    for rival in COMPOSED:
        small, name = files[rival], f"{OURS} + {rival}"
        files[name] = small if isinstance(small, str) else made(name, partial(_sparsified, small, deploying))
    return files


def _sparsified(source: Path, deploying: SparsifyKeywords, target: Path) -> None:
    sparsify_onnx(source, target, **deploying)


def _measured(original: Original, files: Mapping[str, Path | str], cases: Sequence[Case]) -> tuple[Entrant, ...]:
    """Every file that runs is compared with the first, then all race."""
    entrants: dict[str, Entrant] = {}
    reference = remembered(answers(session(original.path, name=str(original.path))))
    with bar("bench", len(files) + 1) as step:
        for name, file in files.items():
            step(f"comparing {name}")
            entrants[name] = _compared(name, file, reference, cases)
        running = {name: file for name, file in files.items() if isinstance(file, Path) and not entrants[name].refusal}
        step("timing")
        for name, lap in race(running, cases).items():
            size = original.bytes if name == AS_IT_IS else _bytes(running[name].parent)
            entrants[name] = replace(entrants[name], seconds=tuple(lap.seconds), load=lap.load, bytes=size)
    return tuple(entrants.values())


def _compared(name: str, file: Path | str, reference: Answer, cases: Sequence[Case]) -> Entrant:
    if isinstance(file, str):
        return Entrant(name, refusal=file)
    try:
        answer = answers(session(file))
        return Entrant(name, error=max(difference(answer, reference, case) for case in cases))
    except VerificationError as error:
        if name == AS_IT_IS:
            raise
        return Entrant(name, refusal=str(error))


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
