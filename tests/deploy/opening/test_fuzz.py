"""Damaged files, two thousand of them; ``python tests/fuzz_onnx.py --count 50000`` goes on from there."""

from __future__ import annotations

from fuzz_onnx import fuzz


def test_mutations_are_written_and_equal_or_refused() -> None:
    counts, wrong = fuzz(first=0, count=2000)
    assert wrong == []
    assert counts["written"] > 400  # among them many that a runtime takes
    assert counts["refused"] > 400
    assert counts.total() == 2000
