"""A constant with zero blocks that no linear map took: its readers stay as they are, the file stores it in blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import onnx_ir as ir

from kronfx.deploy.storage import Storage, Survivors, fewest_bytes


@dataclass(frozen=True)
class LeftConstant:
    """It is seen as a matrix with the ``survivors``; ``why`` no map took it; one that ``is_inner`` is a body's."""

    value: ir.Value
    survivors: Survivors
    why: str
    is_inner: bool = False

    @property
    def name(self) -> str:
        """That of the value."""
        return self.value.name or ""

    @cached_property
    def storage(self) -> Storage | None:
        """How the file keeps it; None where as it is: in a body, or where callers get or replace it."""
        value = self.value
        if self.is_inner or value.is_graph_input() or value.is_graph_output() or not value.uses():
            return None
        return fewest_bytes(self.survivors, None)

    def moved(self, graph: ir.Graph) -> LeftConstant:
        """The same of a clone of the graph."""
        return replace(self, value=graph.initializers[self.name]) if self.storage is not None else self
