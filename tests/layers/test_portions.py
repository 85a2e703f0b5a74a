"""What lies between the two products: never kept, never there as a whole."""

from __future__ import annotations

import pytest
import torch
from oracles import dense
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from kronfx.layers import KroneckerLinear, portions
from kronfx.records import Evaluation, KroneckerShape

evaluations = pytest.mark.parametrize("evaluation", ["a_first", "b_first"])


@evaluations
def test_what_lies_between_is_not_kept(evaluation: Evaluation) -> None:
    layer, x = KroneckerLinear(KroneckerShape(16, 16, 8, 8), 4, evaluation), torch.randn(512, 128, requires_grad=True)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    assert max(kept) == x.numel()
    assert sum(kept) == x.numel() + sum(factor.numel() for factor in (layer.S, layer.A, layer.B))


@evaluations
@pytest.mark.parametrize("rows", [31, 32, 33, 64, 65, 200])
def test_every_row_is_in_one_portion(evaluation: Evaluation, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size from which rows are turned, and beside it; the last portion is smaller, or not."""
    monkeypatch.setattr(portions, "PORTION", 1)
    layer = KroneckerLinear(KroneckerShape(3, 5, 4, 2), 2, evaluation, bias=False, dtype=torch.float64)
    x = torch.randn(rows, 10, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ dense(layer.S, layer.A, layer.B).T)
