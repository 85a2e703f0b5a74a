"""Copies in wide numbers: the same bits as a copy entry by entry, whatever lies where."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kronfx.layers.runs import WIDE, moved

side = st.integers(0, 5)
AS_BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}


def bits(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits there are, those of all NaNs among them."""
    whole = AS_BITS[dtype]
    most = torch.iinfo(whole)
    drawn = torch.randint(most.min, most.max, (count,), dtype=whole, generator=torch.Generator().manual_seed(seed))
    return drawn.view(dtype)


@settings(deadline=None, max_examples=200)
@given(
    rows=side,
    columns=side,
    run=st.integers(0, 17),
    dtype=st.sampled_from(list(AS_BITS)),
    offset=st.integers(0, 4),
    surplus=st.integers(0, 4),
    seed=st.integers(0, 2**16),
)
def test_bits_arrive_where_a_copy_puts_them(
    rows: int, columns: int, run: int, dtype: torch.dtype, offset: int, surplus: int, seed: int
) -> None:
    """From within a larger matrix, at any offset, and back into one."""
    width = columns * run + surplus
    source = bits(offset + rows * width, dtype, seed)[offset:].view(rows, width)[:, : columns * run]
    blocks = source.unflatten(1, (columns, run)).transpose(0, 1)
    whole = AS_BITS[dtype]
    turned = moved(torch.empty(columns, rows, run, dtype=dtype), blocks)
    assert torch.equal(turned.view(whole), blocks.contiguous().view(whole))
    around = bits(offset + rows * width, dtype, seed + 1)
    wanted = around.clone()
    for place in (around, wanted):
        grid = place[offset:].view(rows, width)[:, : columns * run].unflatten(1, (columns, run))
        moved(grid, turned.transpose(0, 1)) if place is around else grid.copy_(turned.transpose(0, 1))
    assert torch.equal(around.view(whole), wanted.view(whole))


@pytest.mark.parametrize(
    ("run", "dtype", "wide"),
    [
        (4, torch.float32, 16),
        (6, torch.float32, 8),
        (2, torch.float64, 16),
        (3, torch.float64, 0),
        (5, torch.float32, 0),
    ],
)
def test_runs_are_as_wide_as_they_can_be(
    run: int, dtype: torch.dtype, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    copy = Tensor.copy_

    def spied(place: Tensor, source: Tensor) -> Tensor:
        seen.append(place.itemsize if place.dtype in dict(WIDE).values() else 0)
        return copy(place, source)

    monkeypatch.setattr(Tensor, "copy_", spied)
    moved(torch.empty(3, 2, run, dtype=dtype), torch.empty(2, 3, run, dtype=dtype).transpose(0, 1))
    assert seen == [wide]
