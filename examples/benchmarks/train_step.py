"""A training step, dense and block-sparse in every way we know of: time, peak memory and parameters, in one run.

    python examples/benchmarks/train_step.py --quick --json train_step.json --svg train_step.svg
    python examples/benchmarks/train_step.py --layers 768x768 --models --ranks 1 4 --evaluations --minutes 30

Contenders take turns, one call each, on the same random input, all warmed up; times are medians. A ratio is the dense
time over the contender's, so above 1 the contender is faster. All compute the same ``W``, with the same blocks zero:

- ``dense``: ``nn.Linear``; ``compiled``: that under ``torch.compile``; ``lasso``: that with ``kx.train.GroupLasso``
- ``paper``: ``B`` first, ``x`` and ``y`` turned around, a product for each rank; ``lokr``: ``W`` by ``torch.kron``
- ``kronfx``, its zeros frozen; ``kronfx-compiled``; with ``--evaluations``, of layers, each evaluation, forced

A layer's step is forward and backward, the input's gradient included; a model's ends with Adam's. The memory is
weighed with Adam, in a fresh process each: parameters, gradients, Adam's state and activations. Cases come in random
order, so that those that fit into ``--minutes`` are a fair sample.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from train_step_clock import Clock, Scales
from train_step_models import MODELS, SIZES, Case, Task, layer
from train_step_rivals import CONTENDERS, DENSE, FORCED, KRONFX, Contender, Runner
from train_step_show import Row, chart, tables, verdicts

import kronfx as kx
from kronfx.files import write
from kronfx.svg import bar_chart

ROWS, RANKS, ZEROS = (128, 256, 1024), (1, 4, 8, 16), (0.0, 0.5, 0.9)
BLOCKS = ("4x4", "8x8", "16x16", "32x32", "64x64", "64x16", "128x8")
SECONDS, QUICK_SECONDS = 40.0, 1.0  # of a case's forward passes, and of its steps, at most
QUICK_MINUTES = 3.0


def pair(text: str) -> tuple[int, int]:
    """``"64x16" -> (64, 16)``."""
    m2, n2 = map(int, text.split("x"))
    return m2, n2


def quick() -> list[Case]:
    """A few of everything, what takes longest last."""
    small, wide, square = layer(768, 768, 1024), layer(3072, 768, 1024), layer(4096, 4096, 256)
    encoder, lenet = MODELS["encoder"], MODELS["lenet5"]
    return [
        *(Case(small, (32, 32), rank, 0.0) for rank in RANKS),
        *(Case(small, block, 4, 0.9) for block in ((32, 32), (64, 16))),
        *(Case(wide, (32, 32), 16, zero) for zero in (0.0, 0.9)),
        *(Case(square, block, 4, 0.0) for block in ((4, 4), (32, 32))),
        Case(layer(300, 784, 256), (4, 4), 4, 0.0),
        Case(lenet, (4, 4), 4, 0.9),
        *(Case(encoder, (32, 32), 4, zero) for zero in (0.0, 0.9)),
    ]


def grid(wishes: argparse.Namespace) -> list[Case]:
    """Every combination that was asked for and is possible, in random order."""
    tasks: list[Task] = [layer(*SIZES[name], rows) for name in wishes.layers for rows in wishes.rows]
    tasks += [MODELS[name] for name in wishes.models]
    cases = [Case(*each) for each in product(tasks, map(pair, wishes.blocks), wishes.ranks, wishes.zeros)]
    cases = [case for case in cases if case.possible]
    random.Random(0).shuffle(cases)
    return cases


def fitting(case: Case, contenders: Sequence[Contender], is_quick: bool) -> list[Contender]:
    """All of a layer. In a model no evaluation is forced, and in a hurry nothing compiled."""
    return [c for c in contenders if not case.task.whole or (c.evaluation is None and not (c.compiled and is_quick))]


def measure(case: Case, contenders: Sequence[Contender], clock: Clock, scales: Scales | None) -> Iterator[Row]:
    """All contenders on one case."""
    start = case.start().to(clock.device)
    x = case.task.input(clock.device)
    with torch.no_grad():
        dy = 1e-3 * torch.randn_like(start(x))
    runners = [Runner(contender, case, start, clock.device, case.task.whole) for contender in contenders]
    # Steps first: they show a layer with frozen zeros that skipping them pays.
    step = clock.by_turns([lambda runner=runner: runner.step(x, dy) for runner in runners])
    forward = clock.by_turns([lambda runner=runner: runner.forward(x) for runner in runners])
    found = zip(contenders, [(r.parameters, "+".join(r.evaluations)) for r in runners], forward, step)
    del runners, start
    torch.compiler.reset()
    for contender, (parameters, evaluation), forward_ms, step_ms in found:
        yield Row(
            task=case.task.name,
            rows=case.task.rows,
            block=case.block_name,
            rank=case.rank,
            zero=case.zero,
            contender=contender.name,
            evaluation=evaluation,
            forward_ms=forward_ms,
            step_ms=step_ms,
            forward=forward[0] / forward_ms,
            step=step[0] / step_ms,
            peak_mb=scales and scales.peak_mb(contender, case),
            parameters=parameters,
        )


def machine(device: torch.device) -> str:
    """The card, or the processor with what torch uses of it."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    names = [line.split(":")[1].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few of everything, in minutes; without it the grid")
    parser.add_argument("--layers", nargs="*", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS, help="of a layer's input")
    parser.add_argument("--ranks", nargs="+", type=int, default=RANKS)
    parser.add_argument("--blocks", nargs="+", default=BLOCKS, help="m2xn2; of a layer, the nearest that divide it")
    parser.add_argument("--zeros", nargs="+", type=float, default=ZEROS, help="shares of zero blocks")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--evaluations", action="store_true", help="time every evaluation of kronfx beside its choice")
    parser.add_argument("--no-memory", action="store_true", help="do not weigh them: it takes a process each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="on the clock")
    parser.add_argument("--seconds", type=float, help="of a case's forwards, and of its steps: then 3 are enough")
    parser.add_argument("--minutes", type=float, help="after which no further case begins; 3 if --quick")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure; print tables and verdicts, write the JSON after every case, and the SVG."""
    wishes = parsed(arguments)
    torch.set_num_threads(wishes.threads)
    device = torch.device(wishes.device)
    seconds = wishes.seconds or (QUICK_SECONDS if wishes.quick else SECONDS)
    clock, scales = Clock(device, wishes.steps, seconds), None if wishes.no_memory else Scales(device, wishes.threads)
    chosen = [DENSE, *(each for name, each in CONTENDERS.items() if name in wishes.contenders and each != DENSE)]
    if wishes.evaluations:
        chosen += [*([] if KRONFX in chosen else [KRONFX]), *FORCED.values()]
    command = f"python examples/benchmarks/train_step.py {shlex.join(sys.argv[1:] if arguments is None else arguments)}"
    about = {
        "machine": machine(device),
        "torch": torch.__version__,
        "threads": wishes.threads,
        "steps": wishes.steps,
        "command": command.rstrip(),
    }
    cases = quick() if wishes.quick else grid(wishes)
    rows: list[Row] = []
    minutes = wishes.minutes or (QUICK_MINUTES if wishes.quick else math.inf)
    end, left = time.monotonic() + 60 * minutes, 0
    for case in track(cases, "measuring", console=Console(stderr=True)):
        if time.monotonic() > end:
            left += 1
            continue
        rows += measure(case, fitting(case, chosen, wishes.quick), clock, scales)
        if wishes.json:
            write(
                wishes.json, json.dumps({**about, "rows": [asdict(r) for r in rows]}, indent=1).encode(), kx.KronfxError
            )
    footing = (
        f"{about['machine']}; {wishes.threads} threads, float32, torch {torch.__version__}; medians of {wishes.steps} "
        f"calls, of 3 at least where they take more than {seconds:g} s; {about['command']}"
    )
    if not wishes.quick:
        rows.sort(key=lambda row: (row.task, row.rows, row.rank, row.zero, row.block))
    print(tables(rows, footing))
    print()
    print(verdicts(rows))
    if left:
        print(f"{left} of {len(cases)} cases left out: the minutes were over")
    if wishes.svg:
        bar_chart(wishes.svg, chart(rows, footing))


if __name__ == "__main__":
    main()
