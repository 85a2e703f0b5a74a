"""Boxes and the wires between them as a picture: DOT, which Graphviz lays out, or SVG, laid out by fast_sugiyama."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import networkx as nx
import pydot
from fast_sugiyama import from_edges

Point = tuple[float, float]
Name = str | int  # of a box, or of a place where a wire bends

WIDTH, HEIGHT, APART, BELOW, MARGIN = 168, 38, 24, 44, 40  # pixels: of a box, between boxes, around all
TOP = 2 * MARGIN + HEIGHT / 2  # of the middle of the first row
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
        picture.add_subgraph(frame)  # type: ignore[arg-type]  # pydot's annotation forgets its own clusters
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
) -> tuple[dict[str, Point], dict[tuple[str, str], list[Point]]]:
    """The middle of each box, and the points that each wire goes through: it bends around the boxes of rows between.

    What no wire connects lies side by side.
    """
    joined = nx.Graph([(wire.source, wire.target) for wire in wires])
    joined.add_nodes_from(box.name for box in boxes)
    places: dict[str, Point] = {}
    lines: dict[tuple[str, str], list[Point]] = {}
    left = MARGIN + WIDTH / 2
    for names in nx.connected_components(joined):
        edges = [(wire.source, wire.target) for wire in wires if wire.source in names]
        points, ways = _of_one_piece(edges) if edges else (dict.fromkeys(names, (0.0, 0.0)), [])
        at = {name: (left + x, TOP + y) for name, (x, y) in points.items()}
        places |= {name: point for name, point in at.items() if isinstance(name, str)}
        lines |= {(str(way[0]), str(way[-1])): [at[name] for name in way] for way in ways}
        left = max(x for x, _ in at.values()) + WIDTH + APART
    return places, lines


def _of_one_piece(edges: Sequence[tuple[str, str]]) -> tuple[dict[Name, Point], list[list[Name]]]:
    """Where boxes are and wires bend, from the left and the top, and the way of each wire.

    Pieces that no wire connects, fast_sugiyama 0.5.3 mixes up where it gets them together.
    """
    ((found, _, _, steps),) = from_edges(edges, vertex_spacing=WIDTH + APART)
    left, top = min(x for _, (x, _) in found), max(y for _, (_, y) in found)
    row = (HEIGHT + BELOW) / (WIDTH + APART)
    onward = {source: target for source, target in steps or () if isinstance(source, int)}
    ways: list[list[Name]] = [list(step) for step in steps or () if isinstance(step[0], str)]
    for way in ways:
        while isinstance(way[-1], int):
            way.append(onward[way[-1]])
    return {name: (x - left, (top - y) * row) for name, (x, y) in found}, ways


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
