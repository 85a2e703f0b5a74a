"""What is seen while something takes long: one display, on a terminal or in a notebook, a line for whoever works."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from html import escape
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kronfx.tables import visible

EVERY = 0.25  # seconds between two drawings: what is timed meanwhile must not notice
BESIDE = 40  # columns of the bar, the counts and the time that is left
SHORTEST = 12

_SHOWN: ContextVar[Progress | None] = ContextVar("_SHOWN", default=None)


@contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar below the one that is shown already; in a pipe there is none. A call names what of ``total`` is begun now,
    a layer or a stage: what was begun before is done."""
    with _display() as progress:
        room = max(SHORTEST, progress.console.width - BESIDE - len(what))
        task, begun = progress.add_task(what, total=total), 0

        def begin(name: str) -> None:
            nonlocal begun
            shown = visible(name)
            shown = shown if len(shown) <= room else f"…{shown[1 - room :]}"  # a path's end tells most
            progress.update(task, completed=begun, description=f"{what}: {shown}", refresh=not begun)
            begun += 1

        try:
            yield begin
        finally:
            progress.remove_task(task)


@contextmanager
def _display() -> Iterator[Progress]:
    """The display that is there already, or one for as long as this lasts."""
    shown = _SHOWN.get()
    if shown is not None:
        yield shown
        return
    with _made() as progress:
        token = _SHOWN.set(progress)
        try:
            yield progress
        finally:
            _SHOWN.reset(token)


def _made() -> Progress:
    stream = sys.stderr  # as it is now: what is silenced meanwhile must not silence the bar
    console = Console(file=stream)
    if console.is_jupyter:
        return _InNotebook(console)
    is_terminal = stream is not None and stream.isatty() and console.is_interactive
    columns = TextColumn("{task.description}", markup=False), BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=1 / EVERY,
        redirect_stdout=is_terminal and sys.stdout is not None and sys.stdout.isatty(),  # else it goes where it goes
        disable=not is_terminal,
    )


class _InNotebook(Progress):
    """Drawn as HTML in the cell's output: rich itself would ask for widgets."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        display = import_module("IPython.display")
        self._html, self._place, self._drawn = display.HTML, display.display(display.HTML(""), display_id=True), 0.0

    def update(self, *args: Any, **changes: Any) -> None:
        """The same, drawn where the last drawing is old."""
        super().update(*args, **changes)
        if changes.get("refresh") or time.monotonic() - self._drawn > EVERY:
            self._drawn = time.monotonic()
            self._place.update(self._html("".join(map(_line, self.tasks))))

    def stop(self) -> None:
        """Leave nothing behind."""
        self._place.update(self._html(""))


def _line(task: Any) -> str:
    done = f'<progress max="{task.total}" value="{task.completed}"></progress>'
    return f"<div>{done} {escape(task.description)} ({task.completed} of {task.total})</div>"
