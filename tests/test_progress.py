"""One display on a terminal, whoever works: a bar within a bar is a line of it, and goes when its work is done."""

from __future__ import annotations

import pytest

from kronfx import progress
from kronfx.progress import bar


def test_a_bar_within_a_bar_is_a_line_of_the_same_display() -> None:
    with bar("outer", 2) as advance:
        shown = progress._SHOWN.get()
        assert shown is not None
        with bar("inner", 3) as step:
            assert progress._SHOWN.get() is shown
            step("inner: one")
            assert [(task.description, task.completed) for task in shown.tasks] == [("outer", 0), ("inner: one", 1)]
        advance()
        assert [(task.description, task.completed) for task in shown.tasks] == [("outer", 1)]
    assert progress._SHOWN.get() is None


def test_an_interruption_takes_the_display_away() -> None:
    with pytest.raises(KeyboardInterrupt), bar("outer", 1), bar("inner", 1):
        raise KeyboardInterrupt
    assert progress._SHOWN.get() is None
