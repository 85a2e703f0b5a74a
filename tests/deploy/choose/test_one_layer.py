"""A layer on its own, as it is timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_files import answers, assert_same, planted
from onnx_spellings import SPELLINGS, integer_file, written

from kronfx.deploy.choose.one_layer import alone
from kronfx.deploy.find.layers import linear_maps
from kronfx.deploy.source import read_source


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
@pytest.mark.parametrize("name", [*SPELLINGS, "8 bits", "8 bits, sequences"])
def test_a_layer_on_its_own_computes_its_product(tmp_path: Path, name: str, lowering: Any) -> None:
    """What the tuner times is the layer, in every spelling, at the number of rows that was asked for."""
    W, bias = planted(12, 20, (4, 4), 0.5), np.arange(12, dtype=np.float32)
    if name.startswith("8 bits"):
        W = np.round(40 * W).astype(np.int8)
        src = integer_file(tmp_path, W, np.array(0, np.int8), "b, s" if "seq" in name else "b")
    else:
        src = written(tmp_path, SPELLINGS[name], W, bias)
    model = read_source(src).model
    (layer,) = linear_maps(model.graph, block=(4, 4)).layers
    single, x = alone(layer, lowering, 6)
    assert x.size == 6 * 20
    ir.save(single, tmp_path / "alone.onnx")
    axis = 1 if "Conv" in name else x.ndim - 2 if "left" in name else x.ndim - 1
    rows = np.moveaxis(x.astype(float), axis, -1) @ W.astype(float).T
    wanted = np.moveaxis(rows + (bias if layer.linear.bias is not None else 0), -1, axis)
    y = answers(tmp_path / "alone.onnx", x=x)[0]
    step = (max(0, x.max()) - min(0, x.min())) / 255  # an 8-bit input is half a step off, 20 of them add up
    assert_same(y, wanted, 20 * 127 * step / abs(wanted).max() if name.startswith("8") else 1e-5)
