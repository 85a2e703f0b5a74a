"""Whole files by the clock: the dense one, and each that could be shipped in its place.

Layers timed on their own each pay for turning their input and their output; in the whole graph neighbours share that,
and onnxruntime fuses what lies between. So the choice made layer by layer runs against one that lowers all it can, and
whatever wins has to beat the dense file (8-bit encoder of 4 layers, 90% of 32x32 blocks zero, 1 x 128 rows: layer by
layer 10.6 ms, all lowered 8.7, dense 13.9).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kronfx.deploy.cases import Case
from kronfx.deploy.records import Latency
from kronfx.deploy.tuning import Lowerings, fastest, run_seconds
from kronfx.deploy.verify import answers, timed_session

_SECONDS = 0.25  # of timing, a file and a case
_NOISE = 5e-6  # seconds that two runs of the same file differ by


@dataclass(frozen=True, slots=True)
class Lap:
    """One file: median ``seconds`` of a run of each case, and the seconds it takes to ``load``."""

    seconds: list[float]
    load: float


def ends(cases: Sequence[Case]) -> Sequence[Case]:
    """The first and the last case: what files are timed with."""
    return cases if len(cases) < 2 else (cases[0], cases[-1])


def lap(path: Path, cases: Sequence[Case]) -> Lap:
    """Time one file; no other session is open meanwhile. Raises VerificationError where it does not run."""
    session, load = timed_session(path)
    answer = answers(session)
    for case in cases:
        answer(case)
    names = [value.name for value in session.get_inputs()]
    taken = [run_seconds(session, dict(zip(names, case.feeds, strict=True)), _SECONDS) for case in cases]
    return Lap(taken, load)


def winner(dense: Lap, others: Mapping[Lowerings, Lap]) -> Lowerings | None:
    """The fastest of the others; None where the dense file is as fast as any, or faster in a case."""
    costs: dict[Lowerings | None, list[float]] = {None: dense.seconds}
    costs.update((lowerings, other.seconds) for lowerings, other in others.items())
    return fastest(costs, None, _NOISE)


def latencies(cases: Sequence[Case], dense: Lap, shipped: Lap) -> tuple[Latency, ...]:
    """The two files side by side, case by case."""
    pairs = zip(cases, dense.seconds, shipped.seconds, strict=True)
    return tuple(Latency(case.batch, before, after) for case, before, after in pairs)
