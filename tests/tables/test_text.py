"""Tables at any width: never wider than asked, sums that folding leaves alone, columns that go in their order."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from kronfx.tables import Column, Share, Table, abbreviated, text
from kronfx.tables.parts import Folds
from kronfx.tables.text import fitting
from kronfx.tables.words import families

FOLDS: tuple[Folds, ...] = ("same", "sum", "range")
PATHS = st.lists(st.sampled_from(["h", "fc1", "0", "1", "2", "7", "10", "01", "a_3", "/"]), min_size=1, max_size=4)
NAMES = st.one_of(PATHS.map(".".join), PATHS.map("/".join), st.text(max_size=120))
HOSTILE = st.one_of(NAMES, st.sampled_from(["\x1b[31mred", "a\nb", "\u202eabc", "日本" * 40, "[b]x[/b]", ":smile:"]))


def number(folds: Folds) -> st.SearchStrategy[object]:
    if folds == "sum":
        return st.one_of(st.integers(0, 10**9), st.none())
    return st.one_of(st.floats(0, 1e6), st.none()) if folds == "range" else st.sampled_from(["x", "512x784", "y" * 40])


@st.composite
def tables(draw: st.DrawFn, names: st.SearchStrategy[str] = HOSTILE) -> Table:
    kinds = draw(st.lists(st.sampled_from(FOLDS), max_size=8))
    goes = draw(st.permutations(range(1, len(kinds) + 1)))
    kept = draw(st.integers(0, len(kinds)))
    columns = [Column(f"c{i}", place if place > kept else 0, kind) for i, (kind, place) in enumerate(zip(kinds, goes))]
    rows = st.tuples(names, *map(number, kinds))
    title = draw(st.text(max_size=200))
    body = tuple(draw(st.lists(rows, max_size=12)))
    return Table(title, (Column("layer"), *columns), body, totals=draw(st.booleans()))


@given(tables(), st.integers(20, 240), st.booleans())
def test_no_line_is_wider_than_asked(table: Table, width: int, fold: bool) -> None:
    drawn = text([table, table.title], width, fold=fold)
    assert max(map(cell_len, drawn.split("\n"))) <= width
    assert all(sign.isprintable() for sign in drawn.replace("\n", ""))


@given(tables())
def test_folding_leaves_totals_and_the_number_of_rows_alone(table: Table) -> None:
    folded = table.folded()
    assert folded.total == table.total
    counts = [re.search(r"  x([0-9]+)$", str(row[0])) for row in folded.rows]
    if not any(re.search(r"  x[0-9]+$", str(row[0])) for row in table.rows):
        assert sum(int(count[1]) if count else 1 for count in counts) == len(table.rows)


@given(st.lists(PATHS.map(".".join), unique=True, max_size=30))
def test_a_family_says_exactly_its_members(names: list[str]) -> None:
    """Held against what a shell makes of braces: every combination of the numbers."""
    seen = []
    for said, members in families(names):
        assert sorted(expanded(said)) == sorted(names[member] for member in members)
        seen += members
    assert sorted(seen) == list(range(len(names)))


def expanded(said: str) -> list[str]:
    pieces = re.split(r"(?<![^._/])(\{[0-9,-]+\}|[0-9]+-[0-9]+)(?![^._/])", said)
    choices = [[piece] if place % 2 == 0 else counted(piece.strip("{}")) for place, piece in enumerate(pieces)]
    return ["".join(parts) for parts in product(*choices)]


def counted(ranges: str) -> list[str]:
    ends = [part.split("-") for part in ranges.split(",")]
    return [str(number) for part in ends for number in range(int(part[0]), int(part[-1]) + 1)]


@given(tables(), st.integers(20, 240))
def test_columns_go_in_their_order_and_no_more_than_must(table: Table, width: int) -> None:
    _, gone = fitting(table, width)
    order = sorted((column for column in table.columns if column.goes), key=lambda column: column.goes)
    went = [column.header for column in order][: len(gone)]
    assert sorted(gone) == sorted(went)
    if went:  # with the last of them it was too wide, as far as it is not broken into lines
        kept = [column.header for column in table.columns if column.header not in gone or column.header == went[-1]]
        index = {column.header: place for place, column in enumerate(table.columns)}
        cells = [[column.header for column in table.columns], *table.cells()]
        longest = [min(round(width / 2), max(cell_len(row[index[header]]) for row in cells)) for header in kept]
        assert sum(longest) + 2 * (len(longest) - 1) > width


def test_what_a_folded_row_says() -> None:
    columns = Column("layer"), Column("m x n"), Column("bytes", 1, "sum"), Column("share", 2, "sum")
    rows = tuple((f"blocks.{i}.fc1", "8x4", 10 * i, Share(i, 32), i / 10) for i in range(12))
    table = Table(
        "t", (*columns, Column("lost", 0, "range", ".0%")), (*rows, ("head", "8x4", 7, Share(1, 2), None)), True
    )
    assert text([table], 100).splitlines() == [
        "t",
        "layer                 m x n  bytes   share     lost",
        "───────────────────────────────────────────────────",
        "blocks.0-11.fc1  x12  8x4      660  17.19%  0%-110%",
        "head                  8x4        7  50.00%",
        "",
        "total                          667  17.36%",
    ]


def test_a_note_says_which_columns_went_and_at_what_width_they_are_back() -> None:
    columns = Column("layer"), Column("first", 1), Column("second", 2), Column("stays")
    table = Table("t", columns, (("fc", "f" * 10, "s" * 10, "x" * 10),))
    assert text([table], 40).endswith("\nnot shown at 40 columns: first;\n  .print(width=41) has all")
    assert "not shown" not in text([table], 41)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["h.0.fc", "h.1.fc", "h.2.fc"], "h.0-2.fc (3)"),
        (["h.0.fc", "h.2.fc", "h.5.fc", "h.6.fc"], "h.{0,2,5-6}.fc (4)"),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0"], "a.0.b.0-1 (2), a.1.b.0"),
        (["fc1", "fc2", "h.01", "h.1"], "fc1, fc2, h.01, h.1"),
        (["onnx::MatMul_7", "onnx::MatMul_8"], "onnx::MatMul_7-8 (2)"),
        ([f"h.{'9' * 5000}", "h.1"], f"h.{'9' * 5000}, h.1"),
    ],
)
def test_names_as_one(names: list[str], said: str) -> None:
    assert abbreviated(names) == said


def test_numbers_that_are_no_names_stay_apart() -> None:
    table = Table("t", (Column("step"), Column("x")), ((1, "a"), (2, "a")))
    assert table.folded() == table
