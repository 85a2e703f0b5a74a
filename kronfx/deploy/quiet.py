"""What a person sees while an export runs: one status line in a terminal, and none of the exporter's own noise."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from rich.console import Console


@contextmanager
def progress(verb: str = "export") -> Iterator[Callable[[str], None]]:
    """A function that names the step under way; it draws on stderr, and only if that is a terminal."""
    console = Console(file=sys.stderr)
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda _: None
        return
    with console.status(verb) as status:
        yield lambda step: status.update(f"{verb}: {step}")


@contextmanager
def silence() -> Iterator[None]:
    """Hold back warnings, log lines and prints; exceptions pass. The state of logging is restored."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
