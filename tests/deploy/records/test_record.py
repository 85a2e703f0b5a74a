"""The record of an export inside its file reads back equal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kronfx import deploy
from kronfx.deploy.records.report import from_record, to_record
from kronfx.records import EVALUATIONS, Evaluated

positive, counts = st.integers(1, 2**10), st.integers(0, 2**40)
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
    factored=st.none() | st.builds(Evaluated, positive, st.sampled_from(EVALUATIONS), positive),
)


@given(st.lists(layers, unique_by=lambda layer: layer.site))
def test_the_record_reads_back_equal(entries: list[deploy.ExportedLayer]) -> None:
    found = from_record(to_record(tuple(entries)))
    assert found == tuple(entries)
    assert [layer.factored for layer in found] == [layer.factored for layer in entries]


@pytest.mark.parametrize("factored", [3, [], {"a": 3}, {"a": [1, 2]}, {"a": [1, "b_first", 0]}, {"a": [1, "dense", 1]}])
def test_factors_that_no_record_has_are_told(factored: object) -> None:
    record = {**json.loads(to_record(())), "factored": factored}
    with pytest.raises(ValueError, match="."):
        from_record(json.dumps(record))
