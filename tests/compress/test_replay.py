"""Forwards that are replayed give the same result as forwards that run, in time linear in depth."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from models import attention, skip
from torch import Tensor, nn

import kronfx as kx
from kronfx.compress import prefix
from kronfx.compress.replay import Replay


class Never(Replay):
    """Nothing is ever over."""

    def finish(self, maps: object) -> None:
        """Forget it."""


def deep() -> nn.Module:
    return nn.Sequential(*(skip(8, 16, 8) for _ in range(5)))


@pytest.mark.parametrize(("model", "batch"), [(deep, (20, 8)), (attention, (4, 5, 16))])
def test_replayed_or_run_the_result_is_the_same(
    model: type[nn.Module], batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    dense, x = model().eval(), [torch.randn(batch) for _ in range(3)]
    replayed = kx.prune(dense, x, target=0.5, block=(4, 4))
    monkeypatch.setattr(prefix, "Replay", Never)
    ran = kx.prune(dense, x, target=0.5, block=(4, 4))
    for a, b in zip(replayed.parameters(), ran.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert all("forward" not in vars(module) for module in replayed.modules())


def test_each_block_runs_a_few_times_however_deep_the_model_is() -> None:
    ran: Counter[int] = Counter()

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            ran[id(type(self)), self.number] += 1  # type: ignore[index]
            return super().forward(x)

    model = nn.Sequential(*(nn.Sequential(Counted(8, 8), nn.Tanh()) for _ in range(8)))
    for number, block in enumerate(model):
        block[0].number = number
    x = [torch.randn(20, 8) for _ in range(10)]
    kx.prune(model, x, target=0.5, block=(2, 2), refit="exact")
    once = dict(ran)
    kx.prune(model, x, target=0.5, block=(2, 2))
    more = {key: ran[key] - 2 * count for key, count in once.items()}
    # Both models, ten batches: once for its own step, once to be remembered; and the first batch at every step.
    assert max(more.values()) <= 2 * (2 * 10 + 2 * 8)


class Writer(nn.Linear):
    """It also writes where others read."""

    def __init__(self, board: list[Tensor]) -> None:
        super().__init__(8, 8)
        self.board = board

    def forward(self, x: Tensor) -> Tensor:
        self.board[:] = [super().forward(x)]
        return x


class Reader(nn.Module):
    """Two maps of what lies on a board; ``cleared`` after every forward, or with the last one left there."""

    def __init__(self, cleared: bool) -> None:
        super().__init__()
        self.board: list[Tensor] = []
        self.writer = Writer(self.board)
        self.second, self.last, self.cleared = nn.Linear(8, 8), nn.Linear(8, 8), cleared

    def forward(self, x: Tensor) -> Tensor:
        if self.cleared:
            self.board.clear()
        self.writer(x)
        return self.last(torch.tanh(self.second(self.board[0])))


@pytest.mark.parametrize("cleared", [True, False])
def test_a_module_that_does_more_than_return_is_not_replayed(cleared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Reader(cleared), [torch.randn(20, 8) for _ in range(3)]
    replayed = kx.prune(model, x, target=0.5, block=(2, 2), how="energy")
    monkeypatch.setattr(prefix, "Replay", Never)
    ran = kx.prune(model, x, target=0.5, block=(2, 2), how="energy")
    assert all(torch.equal(a, b) for a, b in zip(replayed.parameters(), ran.parameters()))
