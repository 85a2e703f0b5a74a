"""What shows itself: printed, at the width that there is, and in a notebook."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from kronfx.errors import KronfxError
from kronfx.tables.notebook import html
from kronfx.tables.parts import Part
from kronfx.tables.text import text

WIDTH = 100  # columns of what nobody gave a width
NARROWEST = 20


def terminal_width() -> int:
    """Columns of the terminal, 100 where there is none."""
    return max(NARROWEST, shutil.get_terminal_size((WIDTH, 0)).columns)


class Shown(ABC):
    """A value that says of which parts it consists, and is printed and shown by notebooks by that."""

    __slots__ = ()

    @abstractmethod
    def shown(self) -> Iterable[Part]:
        """Its parts, from top to bottom."""

    def __str__(self) -> str:
        return text(self.shown(), WIDTH)

    def print(self, *, width: int | None = None, fold: bool = True) -> None:
        """Print it, ``width`` columns wide: by default as wide as the terminal, 100 where there is none.

        Columns that there is no room for are named below their table. ``fold=False`` gives every layer a row of its
        own; otherwise layers alike share one, their numbers added up, or as a range. Raises KronfxError.
        """
        if width is not None and (type(width) is not int or width < NARROWEST):
            found = f"width={width!r}"
            raise KronfxError("", found, f"at least {NARROWEST} columns", "leave it out for the terminal's own")
        columns = width or terminal_width()
        print(text(self.shown(), columns, fold=fold))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """What IPython's prompt shows, and a notebook keeps beside the HTML."""
        return {"text/plain": str(self)}

    def _repr_html_(self) -> str:
        return html(self.shown())
