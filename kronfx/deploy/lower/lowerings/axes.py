"""What a lowering that moves the features of ``x`` to the front has to know of its axes."""

from __future__ import annotations

from kronfx.deploy.find.layers import Layer


def no_axes(layer: Layer) -> str | None:
    """Why the features cannot be told from the rows; None where they can."""
    if layer.linear.rank is None:
        return "the graph does not tell how many axes its input has"
    return "its input has no axis but the features" if layer.linear.rank < 2 else None
