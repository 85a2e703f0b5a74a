"""Options that are none: a sentence each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from onnx_files import product
from torch import nn

import kronfx as kx
from kronfx.errors import ExportError


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"lowering": "fast"}, "one of 'auto', 'dense', 'blocks', 'factors'"),
        ({"lowering": None}, "one of 'auto'"),
        ({"lowering": ["blocks"]}, "one of 'auto'"),
        ({"rows": ()}, "positive integers"),
        ({"rows": 0}, "positive integers"),
        ({"rows": (1, -3)}, "positive integers"),
        ({"rows": (1.5,)}, "positive integers"),
        ({"rows": 1.5}, "positive integers"),
        ({"rows": None}, "positive integers"),
        ({"rows": "1"}, "positive integers"),
        ({"optimize_for": "speed"}, "'latency' or 'size'"),
        ({"optimize_for": None}, "'latency' or 'size'"),
        ({"block": 32}, "two positive integers"),
        ({"batch_sizes": ()}, "positive integers"),
        ({"batch_sizes": 3}, "positive integers"),
        ({"batch_sizes": (0,)}, "positive integers"),
        ({"batch_sizes": (1.5,)}, "positive integers"),
        ({"batch_sizes": None}, "positive integers"),
    ],
)
def test_options_that_are_none(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    src = product(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=found):
        kx.sparsify_onnx(src, tmp_path / "out.onnx", **options)
    if "block" not in options:
        with pytest.raises(ExportError, match=found):
            kx.export_onnx(nn.Linear(4, 4), tmp_path / "out.onnx", torch.randn(1, 4), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
