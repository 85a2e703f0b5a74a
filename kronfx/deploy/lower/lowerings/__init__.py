"""Lowerings: what a linear map becomes in the file. One file each, one row each in the table below.

A lowering says why it cannot take a layer, or None where it can (``refusal``), puts the layer's nodes in place
(``emit``), and estimates the file size (``stored``, bytes) and the work (``cost``, multiply-adds that would take as
long) where nothing is timed. ``emit`` gets the layers that read the same input and have blocks of one size, and that
input feature-major; it answers their outputs feature-major. ``dense`` has no ``emit``: the product stays as it is.

To add a lowering: a file with these four functions, a row here, its name in ``kronfx.records.Lowering``, and what it
means in the option ``lowering`` of ``kronfx/deploy/options.py``. ``axes.no_axes`` refuses for all that want the
features in front, ``kronfx.price`` has what ``cost`` is made of, ``kronfx/deploy/lower/layouts.py`` what a
``Feature`` is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kronfx.deploy.find.layers import Layer
from kronfx.deploy.lower.layouts import Feature, Layouts
from kronfx.deploy.lower.lowerings import blocks, dense, factors
from kronfx.records import Lowering

Emit = Callable[[Layouts, Sequence[Layer], Feature], list[Feature]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    refusal: Callable[[Layer], str | None]
    stored: Callable[[Layer], int]
    cost: Callable[[Layer, int], float]
    emit: Emit | None = None


LOWERINGS: dict[Lowering, Rule] = {
    "dense": Rule(dense.refusal, dense.stored, dense.cost),
    "blocks": Rule(blocks.refusal, blocks.stored, blocks.cost, blocks.emit),
    "factors": Rule(factors.refusal, factors.stored, factors.cost, factors.emit),
}


def refusals(layer: Layer) -> dict[Lowering, str | None]:
    """Why each lowering cannot take the layer, ``dense`` first; None of those that can."""
    return {name: rule.refusal(layer) for name, rule in LOWERINGS.items()}
