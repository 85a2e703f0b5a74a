"""A graph to deploy, and the way to it from an ONNX file, whoever wrote that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from kronfx.deploy.find.folding import is_folded
from kronfx.deploy.find.forms import spell_out
from kronfx.deploy.find.known import KnownWeight
from kronfx.deploy.find.names import remember
from kronfx.deploy.find.plain import inline
from kronfx.deploy.find.spellings import find
from kronfx.deploy.nodes.values import Array, tensor_of
from kronfx.deploy.opening import Original, opened
from kronfx.deploy.opening.constants import fold, lift
from kronfx.deploy.records.report import RECORD_KEY
from kronfx.deploy.storage import products
from kronfx.errors import ExportError


@dataclass(frozen=True, slots=True)
class Source:
    """A dense graph and the weights that are known of it; ``notes`` end up in the report.

    ``convolutions`` are those that it has as their factors.
    ``original`` is the file that it was read from, if it was, and ``changes`` are notes on what was done to that. A
    file that kronfx wrote is ``ours``.
    """

    model: ir.Model
    weights: tuple[KnownWeight, ...] = ()
    block: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    original: Original | None = None
    ours: bool = False
    convolutions: tuple[KnownWeight, ...] = ()


def read_source(src: object) -> Source:
    """The graph of a file with everything constant as an initializer, the factors that it stores, and notes on what is
    left alone. Raises ExportError."""
    file = opened(src)
    model, path = file.model, file.original.path
    record = model.metadata_props.pop(RECORD_KEY, None)
    remember(model.graph)
    if model.functions:
        inline(model)
        lift(path, model)  # what was a function's own
    _require_finite(model.graph)
    weights = tuple(KnownWeight(site, own.shape, own.W, product=own) for site, own in products(model.graph))
    fold(path, model, is_folded)
    spell_out(model.graph)
    bodies = sum(1 for node in model.graph for _ in node.attributes.values() if _.type == ir.AttributeType.GRAPH)
    note = f"{bodies} bodies of If, Loop or Scan were left as they are: weights in them stay dense"
    notes = (note,) if bodies else ()
    return Source(model, weights, None, notes, file.changes, file.original, ours=record is not None)


def _require_finite(graph: ir.Graph) -> None:
    """What products are made with is finite."""
    linears = find(graph)
    scales = {linear.scales.scale for linear in linears if linear.scales is not None}
    for weight in {linear.weight for linear in linears} | scales:
        array = tensor_of(weight).numpy()
        if array.dtype.kind not in "iub" and not _is_finite(array):
            remedy = "export a checkpoint from before the training diverged"
            raise ExportError(weight.name or "", "NaN or infinite entries in a weight", "finite weights", remedy)


def _is_finite(array: Array) -> bool:
    return bool(np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32)).all())
