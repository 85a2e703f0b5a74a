"""Charts: where a point lands is read back from the file and compared with the axis beside it."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronfx.errors import KronfxError
from kronfx.svg import Bars, Chart, bar_chart, line_chart, render, render_bars

SVG = "{http://www.w3.org/2000/svg}"
finite = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-6)


def ticks(root: ElementTree.Element, anchor: str) -> list[tuple[float, float]]:
    """``(value, pixel)`` of an axis's tick labels, anchored in the middle below x, at the end beside y."""
    found = []
    for text in root.iter(f"{SVG}text"):
        try:
            value = float((text.text or "").replace(",", ""))
        except ValueError:
            continue
        if text.get("text-anchor") == anchor:
            found.append((value, float(text.get("x" if anchor == "middle" else "y", "nan"))))
    return found


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
def test_every_point_lies_between_the_ticks_that_bound_it(points: list[tuple[float, float]]) -> None:
    root = ElementTree.fromstring(render([Chart({"line": points}, "title", "steps", "share")]))
    xs, ys = ticks(root, "middle"), ticks(root, "end")
    assert 2 <= len(xs) <= 9
    assert 2 <= len(ys) <= 9
    (line,) = root.iter(f"{SVG}polyline")
    drawn = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert len(drawn) == len(points)
    for (x, y), (px, py) in zip(points, drawn):
        for value, pixel, axis in ((x, px, xs), (y, py - 4 + 8, [(v, p) for v, p in ys])):
            low, high = axis[0], axis[-1]
            share = (value - low[0]) / (high[0] - low[0])
            assert -1e-6 <= share <= 1 + 1e-6  # labels are rounded to ten digits
            assert pixel == pytest.approx(low[1] + share * (high[1] - low[1]), abs=0.2)  # pixels to a tenth


@given(st.dictionaries(st.text("ab<&", max_size=8), st.floats(0.01, 100), max_size=9))
def test_every_bar_runs_from_one_to_its_value(values: dict[str, float]) -> None:
    root = ElementTree.fromstring(render_bars(Bars({"group": values}, "title", "ratio", "a footnote " * 40)))
    marks = ticks(root, "middle")
    (first, left), (last, right) = marks[0], marks[-1]
    assert 2 <= len(marks) <= 10
    assert first < last

    def pixel(value: float) -> float:
        return left + (right - left) * math.log(value / first) / math.log(last / first)

    bars = [bar for bar in root.iter(f"{SVG}rect") if bar.get("height") == "14"]
    assert len(bars) == len(values)
    for bar, value in zip(bars, values.values()):
        ends = float(bar.get("x", "")), float(bar.get("x", "")) + float(bar.get("width", ""))
        assert ends == pytest.approx(sorted((pixel(1), pixel(value))), abs=0.3)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for text in root.iter(f"{SVG}text"):
        assert 0 < float(text.get("x", "")) < width
        assert 0 < float(text.get("y", "")) < height


def test_bars_of_one_name_have_one_colour() -> None:
    text = render_bars(Bars({"x": {"b": 2.0, "bad": math.nan}, "y": {"a": 3.0, "b": 0.5, "none": 0.0}}, "", ""))
    root = ElementTree.fromstring(text)
    fills = [bar.get("fill") for bar in root.iter(f"{SVG}rect") if bar.get("height") == "14"]
    assert fills[0] == fills[2] != fills[1]
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts.count("a") == texts.count("b") == 1  # the legend
    assert not {"bad", "none"} & set(texts)


def test_names_are_text_and_not_markup() -> None:
    text = render([Chart({"<a & b>": [(0, 1), (1, 2)], "two": [(0, 1)]}, "<t>", "x & y", '"')])
    texts = [element.text for element in ElementTree.fromstring(text).iter(f"{SVG}text")]
    assert {"<a & b>", "<t>", "x & y", '"'} <= set(texts)


def test_points_that_cannot_be_drawn_are_left_out() -> None:
    points = [(1, 1.0), (2, math.nan), (3, math.inf), (4, -1.0), (5, 100.0)]
    root = ElementTree.fromstring(render([Chart({"line": points}, "", "", "", log_y=True)]))
    (line,) = root.iter(f"{SVG}polyline")
    assert len(line.get("points", "").split()) == 2
    assert [value for value, _ in ticks(root, "end")] == [1, 10, 100]


@pytest.mark.parametrize("series", [{}, {"none": []}, {"one": [(3.0, 7.0)]}, {"flat": [(0, 2.0), (1, 2.0)]}])
def test_little_to_draw_is_drawn(series: dict[str, list[tuple[float, float]]]) -> None:
    ElementTree.fromstring(render([Chart(series, "title", "x", "y")]))


def test_a_long_legend_ends() -> None:
    root = ElementTree.fromstring(render([Chart({f"layer.{k}": [(0, k), (1, k)] for k in range(40)}, "", "", "")]))
    assert len(list(root.iter(f"{SVG}polyline"))) == 40
    assert "and 26 more" in [text.text for text in root.iter(f"{SVG}text")]


def test_a_file_is_written_or_it_is_said_why(tmp_path: Path) -> None:
    path = line_chart(tmp_path / "chart.svg", {"a": [(0, 1), (1, 3)]}, "title", "x", "y")
    assert ElementTree.parse(path).getroot().get("viewBox")
    assert ElementTree.parse(bar_chart(tmp_path / "bars.svg", Bars({}, "title", "x"))).getroot().get("viewBox")
    with pytest.raises(KronfxError, match="cannot write"):
        line_chart(tmp_path / "missing" / "chart.svg", {"a": [(0, 1)]}, "title", "x", "y")
