"""How long files take in stock onnxruntime, all of one case by turns.

A session's threads spin on after a run and slow every other session down by half, so the files are timed in turn, in
bursts, one session open at a time. A time is a burst's median, and of all bursts the least: machines that are shared
have spells of seconds in which every synchronization of threads takes longer, for all files alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession

LOADS, REST, WARM_UPS = 5, 0.3, 2  # openings of a file; seconds before a burst, when all threads have stopped; runs


@dataclass(frozen=True)
class Clock:
    """How files are timed: on so many threads, in so many bursts of so many seconds each."""

    threads: int = 2
    bursts: int = 5
    seconds: float = 0.3

    def open(self, path: Path) -> InferenceSession:
        """A session as it comes, but for the number of threads."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        return InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def load(self, paths: Sequence[Path]) -> list[float]:
        """Median milliseconds to open each file, all opened in turn; the first turn only warms the disk's cache."""
        turns = [[_milliseconds(self.open, path) for path in paths] for _ in range(LOADS + 1)]
        return [statistics.median(times) for times in zip(*turns[1:])]

    def run(self, paths: Sequence[Path], x: np.ndarray) -> list[float]:
        """Milliseconds of one run of each file, all of them in turn, one session open at a time."""
        times: list[list[float]] = [[] for _ in paths]
        for _ in range(self.bursts):
            for path, own in zip(paths, times):
                time.sleep(REST)
                own.append(statistics.median(self._burst(self.open(path), x)))
        return [min(own) for own in times]

    def _burst(self, session: InferenceSession, x: np.ndarray) -> list[float]:
        for _ in range(WARM_UPS):
            output(session, x)
        times, end = [], time.perf_counter() + self.seconds
        while not times or time.perf_counter() < end:
            times.append(_milliseconds(output, session, x))
        return times


def _milliseconds(call: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return 1000 * (time.perf_counter() - start)


def output(session: InferenceSession, x: np.ndarray) -> np.ndarray:
    """What a session of one input and one output gives."""
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y
