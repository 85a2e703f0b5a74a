"""Operators that ``forms`` spells out where it can: what is left of them is no product, for the reason found there."""

from __future__ import annotations

import onnx_ir as ir

from kronfx.deploy.find.forms import KEPT


def kept(node: ir.Node) -> str | None:
    """Why it was not spelled out."""
    reason = node.meta.get(KEPT)
    return reason if isinstance(reason, str) else None
