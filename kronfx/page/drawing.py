"""The products of a linear map as a small drawn graph: operations, with shapes on the edges, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

import networkx as nx

from kronfx.page.view import Sheet
from kronfx.records import Evaluated, Evaluation, KroneckerShape

Wire = tuple[str, str, str]  # from, to, the shape of what goes along


@dataclass(frozen=True, slots=True)
class Box:
    """An operation, an input or an output; ``x`` and ``y`` count columns and rows of boxes."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph that is laid out; ``caption`` says it in words."""

    caption: str
    boxes: tuple[Box, ...]
    wires: tuple[Wire, ...]


def drawings(sheet: Sheet) -> tuple[Drawing, ...]:
    """The dense product, and what runs in its place, where that is known."""
    taps = 1 if sheet.factored is None else sheet.factored.taps
    product, x = ("MatMul", f"N × {sheet.n}") if taps == 1 else ("Conv", f"N × {sheet.n // taps} × …")
    dense = _drawn(f"dense: one product, {sheet.dense_work or sheet.m * sheet.n:,} multiply-adds a row", [
        ("x", product, x),
        ("W", product, f"{sheet.m} × {sheet.n}"),
        (product, "y", f"N × {sheet.m}"),
    ])  # fmt: skip
    after = _after(sheet)
    if after is None:
        return (dense,)
    words, wires = after
    cost = "" if sheet.work is None else f", {sheet.work:,} multiply-adds a row"
    return dense, _drawn(f"{words}{cost}", wires)


def _after(sheet: Sheet) -> tuple[str, list[Wire]] | None:
    shape, factored = sheet.shape, sheet.factored
    if shape is None:
        return None
    if factored is not None:
        words, wires = FACTORED[factored.evaluation]
        in_file = sheet.state == "onnx"
        return f"{'in the file' if in_file else 'factored'}: {words}", wires(_Factored(shape, factored, in_file))
    if not sheet.zero_blocks or sheet.blocks is None:
        return None
    survivors = f"{sheet.blocks - sheet.zero_blocks} × {shape.m2} × {shape.n2}"
    if sheet.runs_as == "blocks":
        return "in the file: the surviving blocks only", _blocks(shape, survivors)
    if sheet.runs_as == "dense" and (sheet.bytes or 0) < (sheet.dense_bytes or 0):
        return "in the file: a dense product, its weight rebuilt when the file is loaded", _stored(shape, survivors)
    return None


@dataclass(frozen=True, slots=True)
class _Factored:
    """A map that runs by its factors: in a file ``S * A`` is one constant, and rows come last, but for convolutions."""

    shape: KroneckerShape
    by: Evaluated
    in_file: bool

    def x(self, *sizes: int) -> str:
        """What goes along a wire beside the rows."""
        if self.by.taps > 1:
            return " × ".join(["N", *map(str, sizes), "…"])
        return " × ".join([*map(str, sizes), "N"] if self.in_file else ["N", *map(str, sizes)])

    def scaled(self, reader: str, form: str) -> list[Wire]:
        """``S * A_i``, all terms in one operand."""
        s, r = self.shape, self.by.rank
        if self.in_file:
            return [("S * A", reader, form)]
        return [("S", "Mul", f"{s.m1} × {s.n1}"), ("A", "Mul", f"{r} × {s.m1} × {s.n1}"), ("Mul", reader, form)]

    def mixed(self, place: int) -> str:
        """The product by ``S * A``."""
        return f"MatMul {place}" if self.by.taps == 1 else "Einsum"

    def multiplied(self, place: int) -> str:
        """The product by ``B``, or by ``W``."""
        return f"MatMul {place}" if self.by.taps == 1 else "Conv"


def _a_first(of: _Factored) -> list[Wire]:
    s, r, first, second = of.shape, of.by.rank, of.mixed(1), of.multiplied(2)
    return [
        *of.scaled(first, f"{s.m1 * r} × {s.n1}"),
        ("x", first, of.x(s.n1, s.n2 // of.by.taps)),
        (first, second, of.x(s.m1, r * s.n2 // of.by.taps)),
        ("B", second, f"{r * s.n2} × {s.m2}"),
        (second, "y", of.x(s.m)),
    ]


def _b_first(of: _Factored) -> list[Wire]:
    s, r, first, second = of.shape, of.by.rank, of.multiplied(1), of.mixed(2)
    return [
        ("x", first, of.x(s.n1, s.n2 // of.by.taps)),
        ("B", first, f"{s.n2} × {r * s.m2}"),
        (first, second, of.x(s.n1 * r, s.m2)),
        *of.scaled(second, f"{s.m1} × {s.n1 * r}"),
        (second, "y", of.x(s.m)),
    ]


def _materialize(of: _Factored) -> list[Wire]:
    s, r, second = of.shape, of.by.rank, of.multiplied(2)
    return [
        *of.scaled("MatMul 1", f"{s.m1 * s.n1} × {r}"),
        ("B", "MatMul 1", f"{r} × {s.m2 * s.n2}"),
        ("MatMul 1", second, f"W: {s.m} × {s.n}"),
        ("x", second, of.x(s.n // of.by.taps)),
        (second, "y", of.x(s.m)),
    ]


def _blocks(s: KroneckerShape, survivors: str) -> list[Wire]:
    return [
        ("x", "Gather", f"{s.n1} × {s.n2} × N"),
        ("Gather", "MatMul", f"… × {s.n2} × N"),
        ("blocks", "MatMul", survivors),
        ("MatMul", "y", f"{s.m} × N"),
    ]


def _stored(s: KroneckerShape, survivors: str) -> list[Wire]:
    return [
        ("blocks", "Gather", survivors),
        ("Gather", "MatMul", f"W: {s.m} × {s.n}"),
        ("x", "MatMul", f"N × {s.n}"),
        ("MatMul", "y", f"N × {s.m}"),
    ]


FACTORED: dict[Evaluation, tuple[str, Callable[[_Factored], list[Wire]]]] = {
    "a_first": ("A before B", _a_first),
    "b_first": ("B before A", _b_first),
    "materialize": ("W is formed, then multiplied", _materialize),
}


def _drawn(caption: str, wires: Iterable[Wire]) -> Drawing:
    wires = tuple(wires)
    places = _laid_out(tuple(wire[:2] for wire in wires))
    return Drawing(caption, tuple(Box(name, *place) for name, place in places.items()), wires)


@lru_cache
def _laid_out(edges: tuple[tuple[str, str], ...]) -> dict[str, tuple[float, float]]:
    """Each box as many rows above the output as steps lead there, the boxes of a row side by side."""
    graph = nx.DiGraph(edges)
    to_output: dict[str, int] = {}
    for name in reversed(list(nx.topological_sort(graph))):
        to_output[name] = max((1 + to_output[reader] for reader in graph[name]), default=0)
    depth = max(to_output.values())
    rows: dict[int, list[str]] = {}
    for name in graph:
        rows.setdefault(depth - to_output[name], []).append(name)
    places = nx.multipartite_layout(graph, subset_key=rows, align="horizontal")
    widest = [float(places[name][0]) for name in max(rows.values(), key=len)]
    apart = (max(widest) - min(widest)) / max(len(widest) - 1, 1) or 1.0
    return {name: (float(places[name][0]) / apart, float(row)) for row, names in rows.items() for name in names}
