"""How long contenders take, one call each in turn, and how much memory one of them needs in a process of its own."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from train_step_models import Case, layer
from train_step_rivals import Contender, Runner

WARM, LEAST = 2, 3  # calls before the clock runs; calls on the clock, whatever they take
STEPS_IN_PEAK = 2  # the first makes Adam's state, the second has it from the start
PEAK_RESET = Path("/proc/self/clear_refs")  # Linux: writing 5 begins the peak anew


@dataclass(frozen=True)
class Clock:
    """Medians of ``steps`` calls of each contender, fewer (3 at least) where they take longer than ``seconds``."""

    device: torch.device
    steps: int
    seconds: float

    def by_turns(self, calls: Sequence[Callable[[], object]]) -> list[float]:
        """Milliseconds of each; every turn in an order of its own, for a call finds the caches as the one before left
        them."""
        order = random.Random(0)
        taken: list[list[float]] = [[] for _ in calls]
        for turn in range(WARM + self.steps):
            if turn == WARM:
                end = time.monotonic() + self.seconds
            if turn >= WARM + LEAST and time.monotonic() > end:
                break
            for index in order.sample(range(len(calls)), len(calls)):
                ms = self._once(calls[index])
                if turn >= WARM:
                    taken[index].append(ms)
        return [statistics.median(times) for times in taken]

    def _once(self, call: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize(self.device)
            return float(start.elapsed_time(end))
        begin = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begin)


class Scales:
    """Weighs contenders, each in a fresh process that has the libraries and nothing else."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self.device, self.threads = device, threads
        here, path = str(Path(__file__).parent), os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = (
            here if path is None else os.pathsep.join((here, path))
        )  # the server's, to import from
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])

    def peak_mb(self, contender: Contender, case: Case) -> float | None:
        """10^6 bytes: parameters, gradients, Adam's state and activations at their peak over a few steps with Adam.

        None for compiled contenders, behind whose compiler it does not show, and where the system cannot tell.
        """
        if contender.compiled or (self.device.type == "cpu" and not PEAK_RESET.exists()):
            return None
        with self.context.Pool(1) as pool:
            return pool.apply(peak, (contender, case, str(self.device), self.threads))


def peak(contender: Contender, case: Case, device: str, threads: int) -> float:
    """Run in a process of its own: what building leaves behind is handed back first, and what libraries take for
    themselves when they are first used is not counted."""
    torch.set_num_threads(threads)
    on_cuda = torch.device(device).type == "cuda"
    _train(contender, replace(case, task=layer(64, 64, 64), block=(4, 4), rank=1), device)
    before = torch.cuda.memory_allocated() if on_cuda else _resident()
    _train(contender, case, device)
    return ((torch.cuda.max_memory_allocated() if on_cuda else _highest()) - before) / 1e6


def _train(contender: Contender, case: Case, device: str) -> None:
    place = torch.device(device)
    start = case.start().to(place)
    runner = Runner(contender, case, start, place, adam=True)
    del start
    x = case.task.input(place)
    with torch.no_grad():
        dy = torch.randn_like(runner.model(x))
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        _resident()
    for _ in range(STEPS_IN_PEAK):
        runner.step(x, dy)


def _resident() -> int:
    """Bytes in memory now, after what is free was handed back; the peak begins anew."""
    ctypes.CDLL(None).malloc_trim(0)
    PEAK_RESET.write_text("5")
    return _highest()


def _highest() -> int:
    """Bytes at the peak."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
