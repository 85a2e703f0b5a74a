"""Rows shared out among torch's threads: all of them, each once, whatever goes on around."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from kronfx import cost
from kronfx.layers import KroneckerLinear, portions, threads
from kronfx.layers.scratch import Scratch
from kronfx.layers.threads import shared_out
from kronfx.records import KroneckerShape


def numbers(count: int) -> list[slice]:
    return [slice(i, i + 1) for i in range(count)]


def seen(portions: Sequence[slice], _scratch: Scratch) -> tuple[int, list[int]]:
    return threading.get_ident(), [each.start for each in portions]


@pytest.fixture
def layer(monkeypatch: pytest.MonkeyPatch) -> KroneckerLinear:
    """One that shares out its rows at any size."""
    monkeypatch.setattr(cost, "KEPT", 0)
    monkeypatch.setattr(portions, "PORTION", 64)
    return KroneckerLinear(KroneckerShape(3, 4, 2, 5), 2, "b_first", bias=False)


@pytest.fixture(params=[1, 2, 3])
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_thread_takes_its_share(count: int) -> None:
    found = shared_out(seen, numbers(7))
    assert sorted(number for _, share in found for number in share) == list(range(7))
    assert len({thread for thread, _ in found}) == count


def test_of_many_threads_this_one_does_all(layer: KroneckerLinear) -> None:
    x, before = torch.randn(64, 20), torch.get_num_threads()
    wanted = layer(x)
    torch.set_num_threads(threads.MOST + 1)
    try:
        assert [thread for thread, _ in shared_out(seen, numbers(9))] == [threading.get_ident()]
        torch.testing.assert_close(layer(x), wanted)
    finally:
        torch.set_num_threads(before)


@given(st.integers(0, 9))
def test_each_portion_once(portions: int) -> None:
    assert sorted(n for _, share in shared_out(seen, numbers(portions)) for n in share) == list(range(portions))


def test_inside_another_region_one_thread_does_all() -> None:
    def nested(_portions: Sequence[slice], _scratch: Scratch) -> list[tuple[int, list[int]]]:
        return shared_out(seen, numbers(3))

    for found in shared_out(nested, numbers(2)):
        assert sorted(n for _, share in found for n in share) == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_one_raises_is_raised(error: type[BaseException]) -> None:
    def fails(portions: Sequence[slice], _scratch: Scratch) -> None:
        if portions[-1].stop == 4:
            raise error("the last one")

    with pytest.raises(error, match="the last one"):
        shared_out(fails, numbers(4))
    assert len(shared_out(seen, numbers(4))) == 2


def test_modes_of_the_caller_hold_in_all_threads(layer: KroneckerLinear) -> None:
    x = torch.randn(64, 20)
    wanted = x @ layer.weight.detach().T
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x), wanted)  # what was kept from inference serves training
    assert layer(x).requires_grad


def test_who_counts_sees_all_products(layer: KroneckerLinear) -> None:
    totals = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(64, 20))
        totals.append(counter.get_total_flops())
        torch.set_num_threads(1)
    torch.set_num_threads(2)
    assert totals[0] == totals[1] > 0


def test_without_the_library_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_openmp", None)
    assert shared_out(seen, numbers(5)) == [(threading.get_ident(), [0, 1, 2, 3, 4])]


def test_callers_do_not_disturb_each_other(layer: KroneckerLinear) -> None:
    inputs = [torch.randn(200, 20) for _ in range(4)]
    found: dict[int, torch.Tensor] = {}

    def call(i: int) -> None:
        for _ in range(20):
            found[i] = layer(inputs[i]).detach()

    callers = [threading.Thread(target=call, args=(i,)) for i in range(len(inputs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for i, x in enumerate(inputs):
        torch.testing.assert_close(found[i], x @ layer.weight.detach().T)
