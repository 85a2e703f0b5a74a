"""What was measured of this machine: where it lies, what happens where it cannot, and that a plan asks for it."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import kronfx as kx
from kronfx.clock import cache, rates_here


def here() -> Path:
    return cache.path(torch.get_num_threads())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a process that has measured nothing."""
    monkeypatch.setenv("KRONFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "BUSY", math.inf)  # whoever else computes while the tests run
    cache._known.cache_clear()
    yield tmp_path / "cache"
    cache._known.cache_clear()


def test_a_machine_is_measured_once_and_quickly(folder: Path) -> None:
    torch.manual_seed(0)
    before, start = torch.get_rng_state(), time.process_time()
    rates = rates_here()
    assert time.process_time() - start < 20  # CPU time, so whoever else computes: alone it takes 3
    assert torch.equal(torch.get_rng_state(), before)  # a seeded model is the same on every machine
    assert [file.name for file in folder.iterdir()] == [here().name]
    cache._known.cache_clear()
    stamp = here().stat().st_mtime_ns
    assert rates_here() == rates == kx.Rates.from_json(here().read_text())
    assert here().stat().st_mtime_ns == stamp


def test_the_file_is_named_by_what_it_depends_on() -> None:
    assert torch.__version__.split("+")[0] in here().name
    assert "12-threads" in cache.path(12).name
    assert cache.path(1) != cache.path(2)


def test_a_file_that_was_passed_on_is_believed(folder: Path) -> None:
    folder.mkdir()
    slow_entries = kx.Rates(1, 10**12, 0)
    here().write_text(slow_entries.to_json())
    assert rates_here() == slow_entries
    model = nn.Sequential(nn.Linear(768, 768))
    choice = kx.plan(model, rank=1, block=(4, 4), rows=10**5).choices[0]
    assert choice.evaluation == "materialize"  # of many rows it moves the fewest entries
    assert choice.seconds is not None
    assert choice.dense_seconds is not None
    assert choice.seconds > choice.dense_seconds


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "kronfx-rates"}', "\0"])
def test_a_broken_file_is_said_and_measured_anew(folder: Path, text: str) -> None:
    folder.mkdir()
    here().write_text(text)
    with pytest.warns(UserWarning, match="cannot be used .* measured anew"):
        rates = rates_here()
    assert kx.Rates.from_json(here().read_text()) == rates


@pytest.mark.usefixtures("folder")
def test_what_was_disturbed_is_said_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BUSY", 0.0)
    with pytest.warns(UserWarning, match="too busy to be measured .* typical rates are used"):
        assert rates_here() == cache.TYPICAL
    assert not here().exists()


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_said_and_works(folder: Path) -> None:
    folder.mkdir(mode=0o500)
    with pytest.warns(UserWarning, match="is not kept .*KRONFX_CACHE"):
        assert rates_here().multiply_add >= 0


def test_a_folder_that_cannot_be_is_said_and_works(folder: Path) -> None:
    folder.write_text("a file where the folder belongs")
    with pytest.warns(UserWarning, match="is not kept .*KRONFX_CACHE"):
        rates = rates_here()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates_here() == rates  # said and measured once a process


def test_without_a_wish_it_lies_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KRONFX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "kronfx"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "kronfx"
