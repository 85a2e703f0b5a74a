"""Which linear maps end a residual branch, as far as anyone could see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branches:
    """``ends`` are the sites whose output reaches the stream it left, ``followed`` all those whose output was followed
    through the model; ``blind`` says why the others were not, and is empty where all were."""

    ends: frozenset[str] = frozenset()
    followed: frozenset[str] = frozenset()
    blind: str = ""
