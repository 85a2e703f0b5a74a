"""One self-contained HTML page of whatever kronfx knows about a network.

A :class:`Page` is a value: sheets, one a layer, with what is known of each. Who knows more says more: what is None or
empty is left out of the page, not shown empty. Charts are Vega's (in the page, with its licence), drawn in the browser;
the layout of the drawn graphs is networkx's. The page asks nobody for anything: its content policy forbids it.
Why these and not others: ``kronfx/decisions/page.md``.
"""

from kronfx.page.pair import pair
from kronfx.page.pictures import block_map, cells_a_side, picture
from kronfx.page.render import write
from kronfx.page.verdict import gains
from kronfx.page.view import BlockMap, Curve, Gain, Lap, Page, Picture, Proof, RunnerUp, Sheet

__all__ = [
    "BlockMap",
    "Curve",
    "Gain",
    "Lap",
    "Page",
    "Picture",
    "Proof",
    "RunnerUp",
    "Sheet",
    "block_map",
    "cells_a_side",
    "gains",
    "pair",
    "picture",
    "write",
]
