"""Whole files by the clock: the dense one, and each that could be shipped in its place.

What layers gain on their own is not what they gain together, and a machine shared with others has slow spells: the
files run by turns, and of each the quietest turn counts. In numbers: ``kronfx/decisions/whole_files.md``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kronfx.deploy.choose.tuning import NOISE, fastest, run_seconds
from kronfx.deploy.prove.cases import Case
from kronfx.deploy.prove.verify import answers, timed_session
from kronfx.deploy.records.report import Latency
from kronfx.progress import bar

_SECONDS = 0.1  # of timing, a file, a case and a turn
_TURNS, _PATIENCE = 3, 10.0  # as many turns at most; no new one after so many seconds


@dataclass(frozen=True, slots=True)
class Lap:
    """One file: median ``seconds`` of a run of each case, and the seconds it takes to ``load``."""

    seconds: list[float]
    load: float


def ends(cases: Sequence[Case]) -> Sequence[Case]:
    """The first and the last case: what files are timed with."""
    return cases if len(cases) < 2 else (cases[0], cases[-1])


def race(files: Mapping[str, Path], cases: Sequence[Case]) -> dict[str, Lap]:
    """Each file's quietest turn; slow models take fewer. Raises VerificationError where a file does not run."""
    started, laps = time.perf_counter(), {name: list[Lap]() for name in files}
    with bar("racing", _TURNS * len(files)) as begin:
        for turn in range(1, 1 + _TURNS):
            if turn > 1 and time.perf_counter() - started >= _PATIENCE:
                break
            for name, path in files.items():
                begin(f"{name}, turn {turn}")
                laps[name].append(_turn(path, cases))
    return {name: _quietest(own) for name, own in laps.items()}


def _quietest(laps: Sequence[Lap]) -> Lap:
    seconds = [min(times) for times in zip(*(lap.seconds for lap in laps), strict=True)]
    return Lap(seconds, min(lap.load for lap in laps))


def _turn(path: Path, cases: Sequence[Case]) -> Lap:
    """Time one file; no other session is open meanwhile."""
    session, load = timed_session(path)
    answer = answers(session)
    return Lap([run_seconds(partial(answer, case), _SECONDS) for case in cases], load)


def winner(laps: Mapping[str, Lap], dense: str) -> str | None:
    """The name of the fastest; None where the ``dense`` file is as fast as any, or faster in a case."""
    best = fastest({name: lap.seconds for name, lap in laps.items()}, dense, NOISE)
    return None if best == dense else best


def latencies(cases: Sequence[Case], dense: Lap, shipped: Lap) -> tuple[Latency, ...]:
    """The two files side by side, case by case."""
    pairs = zip(cases, dense.seconds, shipped.seconds, strict=True)
    return tuple(Latency(case.batch, before, after) for case, before, after in pairs)
