"""Nothing is printed, and what was silenced speaks again."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from models import folded
from onnx_files import export, product
from torch import nn

import kronfx as kx
from kronfx.deploy.quiet import silence


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
