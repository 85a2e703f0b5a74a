"""Nothing is printed but a status line on a terminal, and what was silenced speaks again."""

from __future__ import annotations

import logging
import os
import pty
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from models import folded
from onnx_files import export, product
from torch import nn

import kronfx as kx
from kronfx.deploy.quiet import progress, silence


def drained(descriptor: int) -> str:
    """All that was written to a terminal whose other end is closed."""
    shown = b""
    try:
        while chunk := os.read(descriptor, 4096):
            shown += chunk
    except OSError:  # Linux's way to say that there is no more
        pass
    os.close(descriptor)
    return shown.decode()


def test_the_status_line_is_for_terminals_only(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress() as step:
        step("writing")
    assert tuple(capfd.readouterr()) == ("", "")

    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        with progress() as step:
            step("writing")
    assert "export: writing" in drained(ours)


def noisily_fail() -> None:
    with silence():
        print("noise")
        logging.getLogger("torch.onnx").error("noise")
        warnings.warn("noise", stacklevel=1)
        raise ZeroDivisionError


def test_silence_gives_everything_back(capsys: pytest.CaptureFixture[str], caplog: Any) -> None:
    logging.disable(logging.DEBUG)
    filters = warnings.filters[:]
    with pytest.raises(ZeroDivisionError):
        noisily_fail()
    assert logging.root.manager.disable == logging.DEBUG
    logging.disable(logging.NOTSET)
    assert warnings.filters == filters
    assert capsys.readouterr().out == ""
    assert not caplog.records
    print("signal")
    assert capsys.readouterr().out == "signal\n"


def test_a_file_made_sparse_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: Any) -> None:
    kx.sparsify_onnx(product(tmp_path / "m.onnx"), tmp_path / "out.onnx", rows=1)
    assert tuple(capfd.readouterr()) == ("", "")
    assert not recwarn.list


def test_an_export_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: Any, caplog: Any) -> None:
    export(nn.Sequential(folded(48, 32, (4, 8))), tmp_path / "model.onnx", torch.randn(1, 32))
    assert tuple(capfd.readouterr()) == ("", "")
    assert not recwarn.list
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]
