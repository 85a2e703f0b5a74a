"""What a terminal shows while something takes long: one display, in which whoever works has a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import Progress

_SHOWN: ContextVar[Progress | None] = ContextVar("_SHOWN", default=None)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, below the one that is shown already; a call advances it, and may say what comes now."""
    shown = _SHOWN.get()
    if shown is not None:
        yield from _line(shown, what, total)
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        token = _SHOWN.set(progress)
        try:
            yield from _line(progress, what, total)
        finally:
            _SHOWN.reset(token)


def _line(progress: Progress, what: str, total: int) -> Iterator[Callable[..., None]]:
    task = progress.add_task(what, total=total)

    def advance(description: str | None = None) -> None:
        progress.update(task, advance=1, description=description)

    try:
        yield advance
    finally:
        progress.remove_task(task)
