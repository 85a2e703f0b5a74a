"""Where survivors are multiplied because the clock says so, and that whoever looks on sees nothing of it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from oracles import random_input
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import kronfx as kx
from kronfx.layers import KroneckerConv, KroneckerLinear
from kronfx.layers.pattern import Pattern
from kronfx.records import KroneckerShape


def sparse_layer(shape: KroneckerShape, rank: int, every: int, **options: object) -> KroneckerLinear:
    """A layer that has one of ``every`` blocks, and may skip the others."""
    layer = KroneckerLinear(shape, rank, "materialize", **options)  # type: ignore[arg-type]
    keep = torch.arange(shape.blocks).view_as(layer.S) % every == 0
    layer.S.data.mul_(keep)
    layer.skip_zeros(forced=False)
    return layer


def winner() -> KroneckerLinear:
    """One block of 33 left, and 33 times less to do."""
    return sparse_layer(KroneckerShape(32, 32, 32, 32), 2, 33)


def loser() -> KroneckerLinear:
    """Products of 4 rows with 2 x 2 blocks, one row of blocks after the other."""
    return sparse_layer(KroneckerShape(32, 32, 2, 2), 1, 3)


@pytest.mark.parametrize(("layer", "rows", "wins"), [(winner(), 256, True), (loser(), 4, False)], ids=["wins", "loses"])
def test_the_first_training_step_decides(layer: KroneckerLinear, rows: int, wins: bool) -> None:
    x = random_input((rows,), layer.in_features, torch.float32)
    with torch.no_grad():
        layer(x)
    assert layer.running == "materialize"  # a step in evaluation shows nothing
    layer(x[:0])
    assert layer.running == "materialize"
    layer(x)
    assert layer.running.startswith("blocks") == wins
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert layer.running in repr(layer)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias, atol=1e-4, rtol=1e-4)


def test_nothing_to_skip_is_not_timed() -> None:
    layer = sparse_layer(KroneckerShape(4, 4, 32, 32), 1, 1)
    layer(torch.randn(8, 128))
    assert layer.running == "materialize"


def test_copies_pickles_states_and_folds_know_nothing_of_it() -> None:
    layer, x = winner(), torch.randn(3, 1024)
    layer.skip_zeros()
    y = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.skipping is None
        torch.testing.assert_close(twin(x), y, atol=1e-4, rtol=1e-4)
    assert set(layer.state_dict()) == {"S", "A", "B", "bias"}
    folded = kx.fold(nn.Sequential(layer))
    assert type(folded[0]) is nn.Linear
    assert not hasattr(folded[0], "skipping")
    torch.testing.assert_close(folded(x), y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("forced", [True, False])
def test_checkpointed_segments_compute_it_again(forced: bool) -> None:
    layer, x = winner(), torch.randn(64, 1024, requires_grad=True)
    layer.skip_zeros(forced)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert layer.running.startswith("blocks")
    found, x.grad = x.grad, None
    layer(x).sum().backward()
    torch.testing.assert_close(found, x.grad)


def test_what_is_saved_for_backward_is_packed_as_ever() -> None:
    """Timing saves tensors of its own, which no hook of the user's may see."""
    seen: list[Tensor] = []
    layer, x = winner(), torch.randn(16, 1024)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        layer(x)
        first = len(seen)
        layer(x)
    assert first == len(seen) - first


def test_convolutions_and_stacks_run_as_planned() -> None:
    stacked = sparse_stack()
    x = random_input((2, 3), 20)
    y = stacked(x)
    stacked.skip_zeros()
    assert torch.equal(stacked(x), y)
    model = kx.factorize(nn.Sequential(nn.Conv2d(8, 8, 3)), rank=1, block=(2, 4))
    conv = model[0]
    assert isinstance(conv, KroneckerConv)
    image = torch.randn(2, 8, 5, 5)
    y = conv(image)
    conv.skip_zeros()
    assert torch.equal(conv(image), y)


def sparse_stack() -> KroneckerLinear:
    layer = KroneckerLinear(KroneckerShape(3, 4, 2, 5), 2, "a_first", bias=False, stack=(2,), dtype=torch.float64)
    layer.S.data[:, 1] = 0
    return layer


def test_a_pattern_knows_its_survivors() -> None:
    shape = KroneckerShape(3, 4, 2, 5)
    S = torch.tensor([[0, 2, 0, -1], [0, 0, 0, 0], [0, 3, 0, 0.5]])
    pattern = Pattern.of(S, shape)
    assert (len(pattern), pattern.share) == (4, 4 / 12)
    assert torch.equal(pattern.mask, S != 0)
    assert torch.equal(S.flatten()[pattern.flat], torch.tensor([2, -1, 3, 0.5]))
    assert [line.places.tolist() for line in pattern.row_lines] == [[1, 3], [1, 3], []]  # the longest first
    assert [line.places.tolist() for line in pattern.column_lines] == [[0, 2], [0, 2], [], []]
    assert [line.number for line in pattern.row_lines + pattern.column_lines] == [0, 2, 1, 1, 3, 0, 2]
    assert torch.equal(pattern.by_column[pattern.by_row], torch.arange(4))
    assert pattern.fits(2 * S)
    assert not pattern.fits(S + 1)
