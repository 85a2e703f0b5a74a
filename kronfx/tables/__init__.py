"""Values as tables: in a terminal, a log and a notebook, at any width.

What shows itself is a ``Shown``: it says once of which parts it consists (``Table``, ``Picture``, text), and is printed
and shown by notebooks by that. A table says with each ``Column`` how rows of layers alike share it, and which column
goes first where there is no room.
"""

from kronfx.tables.parts import Cell, Column, Part, Picture, Row, Share, Table
from kronfx.tables.shown import Shown, terminal_width
from kronfx.tables.text import render, text
from kronfx.tables.words import abbreviated, percent, visible

__all__ = [
    "Cell",
    "Column",
    "Part",
    "Picture",
    "Row",
    "Share",
    "Shown",
    "Table",
    "abbreviated",
    "percent",
    "render",
    "terminal_width",
    "text",
    "visible",
]
