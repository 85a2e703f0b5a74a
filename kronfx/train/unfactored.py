"""What everything that trains factors says of a model without any."""

from __future__ import annotations

from kronfx.errors import TrainError


def unfactored() -> TrainError:
    """The error to raise."""
    found = "no layer of the model is factored"
    return TrainError("", found, "at least one factored layer", "call kronfx.factorize on it first")
