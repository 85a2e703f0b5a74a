"""Boxes and the wires between them as a picture: DOT, which Graphviz lays out, or SVG, laid out by fast_sugiyama."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import pydot
from fast_sugiyama import from_edges
from fast_sugiyama.layout import Layouts

Point = tuple[float, float]
Name = str | int  # of a box, or of a place where a wire bends

WIDTH, HEIGHT, APART, BELOW, MARGIN = 168, 38, 24, 44, 40  # pixels: of a box, between boxes, around all
LETTERS = 27  # of a line in a box
OURS, OTHERS = "#d8ebf7", "#ffffff"
STYLE = (
    "text{font:12px system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif;fill:#222;text-anchor:middle}"
    ".title{font-size:15px;font-weight:600;text-anchor:start}.where,.shape{font-size:10px;fill:#444}"
    ".shape{text-anchor:start;paint-order:stroke;stroke:#fff;stroke-width:3px}"
    "rect.box{fill:#fff;stroke:#777}rect.ours{fill:#d8ebf7;stroke:#0072b2;stroke-width:1.5px}"
    "path{fill:none;stroke:#777}marker path{fill:#777;stroke:none}"
)


@dataclass(frozen=True, slots=True)
class Box:
    """An operation: its ``name``, unlike all others, what it does in ``words``, ``where`` it is, and whether it is part
    of what kronfx put in place."""

    name: str
    words: str
    where: str
    is_ours: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """What goes from box to box, and its shape where that is known."""

    source: str
    target: str
    shape: str


def dot(title: str, boxes: Sequence[Box], wires: Sequence[Wire]) -> str:
    """DOT text: the boxes of one place in a frame that is called after it, where they are ours."""
    picture = pydot.Dot("model", label=_quoted(title), labelloc="t", fontname="Helvetica")
    picture.set_node_defaults(shape="box", style="filled", fillcolor=_quoted(OTHERS), fontname="Helvetica")
    picture.set_edge_defaults(fontname="Helvetica", fontsize="10")
    frames: dict[str, pydot.Cluster] = {}
    for box in boxes:
        words = box.words if box.is_ours or not box.where else f"{box.where}\n{box.words}"
        node = pydot.Node(_quoted(box.name), label=_quoted(words), fillcolor=_quoted(OURS if box.is_ours else OTHERS))
        if not box.is_ours:
            picture.add_node(node)
            continue
        if box.where not in frames:
            frames[box.where] = pydot.Cluster(f"c{len(frames)}", label=_quoted(box.where), color=_quoted("#0072b2"))
        frames[box.where].add_node(node)
    for frame in frames.values():
        picture.add_subgraph(frame)
    for wire in wires:
        picture.add_edge(pydot.Edge(_quoted(wire.source), _quoted(wire.target), label=_quoted(wire.shape)))
    text: str = picture.to_string()
    return text


def svg(title: str, boxes: Sequence[Box], wires: Sequence[Wire]) -> str:
    """The text of an SVG file, from top to bottom; ours are blue."""
    places, lines = _laid_out(boxes, wires)
    width = max(x for x, _ in places.values()) + WIDTH / 2 + MARGIN
    height = max(y for _, y in places.values()) + HEIGHT / 2 + MARGIN
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    parts = [
        f"{head}<style>{STYLE}</style>",
        f'<defs>{arrow}<path d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
        f'<text class="title" x="{MARGIN / 2:g}" y="24">{escape(title)}</text>',
        *(_curve(lines[wire.source, wire.target]) for wire in wires),
        *(_shape(lines[wire.source, wire.target], wire.shape) for wire in wires if wire.shape),
        *(_rectangle(box, *places[box.name]) for box in boxes),
        "</svg>\n",
    ]
    return "\n".join(parts)


PICTURES: dict[str, Callable[[str, Sequence[Box], Sequence[Wire]], str]] = {".svg": svg, ".dot": dot}


def _laid_out(
    boxes: Sequence[Box], wires: Sequence[Wire]
) -> tuple[dict[Name, Point], dict[tuple[Name, Name], list[Point]]]:
    """The middle of each box, and the points that each wire goes through: it bends around the boxes of rows between."""
    step = WIDTH + APART
    apart = from_edges([(wire.source, wire.target) for wire in wires], vertex_spacing=step)
    layouts = apart.dot_layout(spacing=step) if apart else apart  # side by side what no wire connects
    found = layouts.to_dict()
    left, top = min((x for x, _ in found.values()), default=0), max((y for _, y in found.values()), default=0)
    places = {
        name: (x - left + WIDTH / 2 + MARGIN, (top - y) / step * (HEIGHT + BELOW) + HEIGHT / 2 + 2 * MARGIN)
        for name, (x, y) in found.items()
    }
    alone = [box.name for box in boxes if box.name not in places]  # an input that nothing reads
    right = max((x for x, _ in places.values()), default=MARGIN - WIDTH / 2 - APART)
    places |= {name: (right + (i + 1) * step, HEIGHT / 2 + 2 * MARGIN) for i, name in enumerate(alone)}
    return places, {(way[0], way[-1]): [places[name] for name in way] for way in _ways(layouts)}


def _ways(layouts: Layouts) -> Iterator[list[Name]]:
    """From box to box, by way of where the wire bends."""
    for _, _, _, found in layouts:
        edges = list(found or ())
        onward = {source: target for source, target in edges if isinstance(source, int)}
        for source, target in edges:
            if isinstance(source, int):
                continue
            way = [source, target]
            while isinstance(way[-1], int):
                way.append(onward[way[-1]])
            yield way


def _curve(points: Sequence[Point]) -> str:
    """Down from the first box, through the points, to the top of the last box."""
    first, *between, last = points
    stops = [(first[0], first[1] + HEIGHT / 2), *between, (last[0], last[1] - HEIGHT / 2)]
    bends = [f"C{x:g} {(y + v) / 2:g} {u:g} {(y + v) / 2:g} {u:g} {v:g}" for (x, y), (u, v) in pairwise(stops)]
    return f'<path d="M{stops[0][0]:g} {stops[0][1]:g}{"".join(bends)}" marker-end="url(#arrow)"/>'


def _shape(points: Sequence[Point], shape: str) -> str:
    """Where the wire reaches its first stop."""
    (x, y), (u, v) = points[0], points[1]
    return f'<text class="shape" x="{(x + u) / 2 + 4:g}" y="{(y + v) / 2 + 3:g}">{escape(shape)}</text>'


def _rectangle(box: Box, x: float, y: float) -> str:
    lines = [f'<text x="{x:g}" y="{y + (-3 if box.where else 4):g}">{escape(_short(box.words))}</text>']
    if box.where:
        lines.append(f'<text class="where" x="{x:g}" y="{y + 12:g}">{escape(_short(box.where))}</text>')
    corner = f'x="{x - WIDTH / 2:g}" y="{y - HEIGHT / 2:g}" width="{WIDTH}" height="{HEIGHT}" rx="4"'
    kind = "box ours" if box.is_ours else "box"
    said = escape(" ".join(filter(None, (box.name, box.words, box.where))))
    return f'<g><title>{said}</title><rect class="{kind}" {corner}/>{"".join(lines)}</g>'


def _short(line: str) -> str:
    """The end of a path says the most."""
    return line if len(line) <= LETTERS else f"…{line[1 - LETTERS :]}"


def _quoted(text: str) -> str:
    """As DOT has strings."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
