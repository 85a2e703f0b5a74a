"""What was measured of this machine, in a small file that a person can look at, delete and pass on."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from functools import cache
from pathlib import Path

import torch

from kronfx.clock.calibration import measured
from kronfx.errors import KronfxError, PlanError, reason, warn
from kronfx.files import write
from kronfx.records import Rates

ROWS = 1024
BUSY = 0.4  # relative error of the rates, from which on somebody else was measured too: alone it is 0.2
TYPICAL = Rates(9_700_000, 107_000_000, 20_000_000_000_000, "typical: kronfx/decisions/clock.md")


def rates_here() -> Rates:
    """The rates of a training step on this machine: those of its file, or measured now and kept.

    Where the measurement was disturbed, typical rates serve until the next process measures again.
    """
    return _known(path(torch.get_num_threads()))


def path(threads: int) -> Path:
    """The file of this CPU, this version of torch and this number of threads, in :func:`folder`."""
    words = f"{_cpu()} torch {torch.__version__} {threads} threads"
    return folder() / f"{re.sub(r'[^a-z0-9.]+', '-', words.lower()).strip('-')}.json"


def folder() -> Path:
    """``$KRONFX_CACHE``; else ``kronfx`` in ``$XDG_CACHE_HOME``, in ``~/.cache``, or where there is no home in the
    system's folder of temporary files."""
    if os.environ.get("KRONFX_CACHE"):
        return Path(os.environ["KRONFX_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kronfx"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "kronfx"


@cache
def _known(file: Path) -> Rates:
    kept = read(file)
    if kept is not None:
        return kept
    found = measured(ROWS, torch.float32, torch.device("cpu"), backward=True)
    if found.error > BUSY:
        warn(f"this machine is too busy to be measured (times are off by {found.error:.0%}); typical rates are used")
        return TYPICAL
    _keep(file, found.rates)
    return found.rates


def read(file: Path) -> Rates | None:
    """The rates that a file keeps; None where there is none, or none that can be used, which is a warning."""
    try:
        return Rates.from_json(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, PlanError) as error:
        said = error.found if isinstance(error, KronfxError) else reason(error)
        warn(f"{file} cannot be used ({said}); this machine is measured anew")
        return None


def _keep(file: Path, rates: Rates) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, rates.to_json().encode(), PlanError)
    except (OSError, PlanError) as error:
        said = error.found if isinstance(error, KronfxError) else reason(error)
        warn(f"what was measured of this machine is not kept ({said}); name another folder in KRONFX_CACHE")


def _cpu() -> str:
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
