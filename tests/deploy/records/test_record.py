"""The record of an export inside its file reads back equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kronfx import deploy
from kronfx.deploy.records.report import from_record, to_record

counts = st.integers(0, 2**40)
layers = st.builds(
    deploy.ExportedLayer,
    st.text(),
    counts,
    counts,
    st.none() | st.tuples(counts, counts),
    st.sampled_from(["dense", "blocks", "factors"]),
    counts,
    counts,
    counts,
    counts,
)


@given(st.lists(layers))
def test_the_record_reads_back_equal(entries: list[deploy.ExportedLayer]) -> None:
    assert from_record(to_record(tuple(entries))) == tuple(entries)
