"""A training's history -> the curves of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kronfx.files import PathLike
from kronfx.page import Curve
from kronfx.train import History

_OTHER = "step", "sparsity", "layers"
MOST, ALL = 200, 20_000  # points of a curve, and of all of them: every so many steps, the last among them


def curves_of(history: History | PathLike) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    """The shares of zero groups, of the whole and of every layer, and all other figures, over the steps.

    Raises TrainError.
    """
    lines = (history if isinstance(history, History) else History(Path(history))).lines()
    layers = dict.fromkeys(name for line in lines for name in line["layers"])
    most = max(2, min(MOST, ALL // (1 + len(layers))))
    lines = lines[:: -(-len(lines) // most) or 1] + lines[-1:]
    shares = [Curve("all layers", tuple((line["step"], line["sparsity"]) for line in lines))]
    shares += [
        Curve(layer, tuple(_share(line, layer) for line in lines if layer in line["layers"])) for layer in layers
    ]
    names = dict.fromkeys(name for line in lines for name in line if name not in _OTHER)
    figures = (Curve(name, tuple((line["step"], line[name]) for line in lines if name in line)) for name in names)
    return (tuple(shares) if lines else ()), tuple(figures)


def _share(line: dict[str, Any], layer: str) -> tuple[int, float]:
    zero, groups = line["layers"][layer]
    return line["step"], zero / groups
