"""Pictures of graphs. The oracle is the fx graph itself, and readers that others wrote: pydot's and an XML parser."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pydot
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import kronfx as kx
from kronfx.graph.picture import HEIGHT, WIDTH, Box, Wire, dot, svg

SVG = "{http://www.w3.org/2000/svg}"


class Residual(nn.Module):
    """A factored map, and a stream around it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(24, 24)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x + self.layers[0](x).relu()


class Guarded(nn.Module):
    """What symbolic tracing stops at: a condition on a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.shape[0] > 1 else x


@pytest.fixture
def factored() -> nn.Module:
    return kx.factorize(Residual(), rank=2, block=(4, 4))


def unquoted(text: str) -> str:
    return text.strip('"')


def drawn(path: Path) -> ElementTree.Element:
    return ElementTree.parse(path).getroot()


def test_nodes_are_named_after_their_site_and_evaluation(factored: nn.Module) -> None:
    evaluation = factored.layers[0].evaluation
    own = [node for node in kx.graph(factored).graph.nodes if node.meta.get("kronfx") == "layers.0"]
    assert len(own) > 5
    for node in own:
        start = "layers_0_" if node.op == "get_attr" else f"layers_0_{evaluation}_"
        assert node.name.startswith(start), node.name
    assert {node.meta["kronfx_evaluation"] for node in own} == {evaluation}


def test_a_dot_file_holds_the_graph(factored: nn.Module, tmp_path: Path) -> None:
    path = kx.draw(factored, tmp_path / "model.dot", torch.randn(3, 24))
    (read,) = pydot.graph_from_dot_file(path)
    graph = kx.graph(factored).graph
    wanted = {(source.name, node.name) for node in graph.nodes for source in node.all_input_nodes}
    assert {(unquoted(e.get_source()), unquoted(e.get_destination())) for e in read.get_edges()} == wanted
    assert {unquoted(edge.get("label")) for edge in read.get_edges()} >= {"3 x 24", "2 x 6 x 6", "6 x 6"}
    (frame,) = read.get_subgraphs()
    assert unquoted(frame.get("label")) == f"layers.0/{factored.layers[0].evaluation}"
    inside = {unquoted(node.get_name()) for node in frame.get_nodes()}
    assert inside == {node.name for node in graph.nodes if node.meta.get("kronfx")}


def test_an_svg_file_shows_every_node_and_wire(factored: nn.Module, tmp_path: Path) -> None:
    root = drawn(kx.draw(factored, tmp_path / "model.svg", {"x": torch.randn(3, 24), "mask": None}))
    graph = kx.graph(factored).graph
    groups = root.findall(f"{SVG}g")
    assert [group.findtext(f"{SVG}title").split()[0] for group in groups] == [node.name for node in graph.nodes]
    ours = [group.find(f"{SVG}rect").get("class") == "box ours" for group in groups]
    assert ours == ["kronfx" in node.meta for node in graph.nodes]
    assert len(root.findall(f"{SVG}path")) == sum(len(node.all_input_nodes) for node in graph.nodes)
    assert root.get("role") == "img"
    assert root.get("aria-label") == f"Residual: {len(groups)} nodes"


def test_nothing_is_computed_and_nothing_changes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    text = kx.draw(model, tmp_path / "m.svg", torch.full((4, 8), torch.inf)).read_text()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "4 x 8" in text
    assert "4 x 8" not in kx.draw(model, tmp_path / "m.svg").read_text()


def test_an_exported_graph_is_drawn_as_well(tmp_path: Path) -> None:
    model = kx.factorize(Guarded(), rank=1, block=(4, 4))
    root = drawn(kx.draw(model, tmp_path / "m.svg", torch.randn(2, 16)))
    assert any(group.find(f"{SVG}rect").get("class") == "box ours" for group in root.findall(f"{SVG}g"))


@pytest.mark.parametrize(
    ("name", "inputs", "said"),
    [
        ("m.png", None, r"^graph: a picture called m.png; needed a name that ends in .svg or .dot"),
        ("none/m.svg", None, r"^graph: cannot write"),
        ("m.svg", torch.randn(3, 7), r"^graph: inputs that the model does not take \("),
    ],
)
def test_what_cannot_be_drawn_is_a_sentence(tmp_path: Path, name: str, inputs: Tensor | None, said: str) -> None:
    with pytest.raises(kx.KronfxError, match=said):
        kx.draw(nn.Linear(8, 8), tmp_path / name, inputs)
    assert list(tmp_path.iterdir()) == []


@st.composite
def pictures(draw: st.DrawFn) -> tuple[list[Box], list[Wire]]:
    """Boxes, each of which reads some of those before it."""
    count = draw(st.integers(1, 30))
    names = [f'n{i}"\\' for i in range(count)]
    words = draw(st.lists(st.sampled_from(["a<b>&c", "matmul", 'q"\\n', "x" * 60]), min_size=count, max_size=count))
    places = [("", False), ("a.b/a_first", True)] * count
    boxes = [Box(name, does, *place) for name, does, place in zip(names, words, places)]
    wires = [
        Wire(names[source], names[i], "2 x 3" if source % 2 else "")
        for i in range(1, count)
        for source in draw(st.sets(st.integers(0, i - 1), max_size=3))
    ]
    return boxes, wires


@given(pictures())
def test_boxes_never_overlap_and_wires_meet_them(picture: tuple[list[Box], list[Wire]]) -> None:
    boxes, wires = picture
    root = ElementTree.fromstring(svg("t<i>&tle", boxes, wires))
    shapes = [group.find(f"{SVG}rect") for group in root.findall(f"{SVG}g")]
    corners = {box.name: (float(s.get("x")), float(s.get("y"))) for box, s in zip(boxes, shapes)}
    for (x, y), (u, v) in combinations(corners.values(), 2):
        assert abs(x - u) >= WIDTH or abs(y - v) >= HEIGHT
    lines = [path.get("d") for path in root.findall(f"{SVG}path")]
    for wire, line in zip(wires, lines, strict=True):
        x, y, *_, u, v = (float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", line))
        (left, top), (right, bottom) = corners[wire.source], corners[wire.target]
        assert (x, y) == pytest.approx((left + WIDTH / 2, top + HEIGHT), abs=0.01)
        assert (u, v) == pytest.approx((right + WIDTH / 2, bottom), abs=0.01)
    (read,) = pydot.graph_from_dot_data(dot("t", boxes, wires))
    assert len(read.get_edges()) == len(wires)
