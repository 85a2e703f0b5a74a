"""The proof that a file answers right: its inputs, its tolerance, the runtime that can run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import folded
from onnx_files import SMALL, export, onnx_file, product, sparse
from torch import nn

import kronfx as kx
from kronfx.deploy.prove.inputs import Inputs


def test_inputs_at_other_batch_sizes() -> None:
    x, ids, table = torch.tensor([[1.0, 0.0, -torch.inf], [-2, 4, 1]]), torch.tensor([3, 5]), torch.randn(3, 3)
    resized = Inputs((x, ids), {"table": table}).at_batch(5)
    rows, new_ids = resized.args
    assert new_ids.tolist() == [3, 5, 3, 5, 3]
    assert resized.kwargs["table"] is table
    wanted = x[[0, 1, 0, 1, 0]]
    assert torch.equal(rows.sign(), wanted.sign())
    assert (rows.abs() <= wanted.abs()).all()
    assert (rows.abs() >= 0.799 * wanted.abs()).all()
    assert not torch.equal(rows[0], rows[2])
    assert Inputs((torch.zeros(2, 3),), {}).at_batch(4).args[0].all()


def test_the_tolerance_is_that_of_the_weights(tmp_path: Path) -> None:
    """Integers that only index do not make a float32 file an 8-bit one."""
    once, report = sparse(product(tmp_path / "m.onnx"), "dense", verify=True)
    assert report.tolerance == 1e-4
    again = kx.sparsify_onnx(once, tmp_path / "again.onnx", tune=False)
    assert again.tolerance == 1e-4


def test_the_callers_own_example(tmp_path: Path) -> None:
    """A model that random inputs do not suit: ids of a vocabulary that starts at 7."""
    nodes = """
        i = Sub(ids, seven)
        e = Gather(table, i)
        y = MatMul(e, w)
    """
    table, seven = np.ones((1, 64), "f"), np.array(7)
    src = onnx_file(tmp_path / "m.onnx", "int64[b] ids => float[b, 48] y", nodes, w=SMALL.T, table=table, seven=seven)
    with pytest.raises(kx.KronfxError, match="does not run on random inputs.*pass example_inputs"):
        kx.sparsify_onnx(src, tmp_path / "out.onnx", tune=False)
    report = kx.sparsify_onnx(src, tmp_path / "out.onnx", example_inputs={"ids": np.array([7, 7])}, tune=False)
    assert report.max_error is not None
    assert report.batch_sizes == ()


@pytest.mark.parametrize("lowering", ["dense", "blocks"])
def test_bfloat16_is_proven_by_the_reference_evaluator(tmp_path: Path, lowering: str) -> None:
    """onnxruntime has no CPU kernels for it."""
    model = nn.Sequential(folded(48, 64, (4, 8))).bfloat16()
    report = export(model, tmp_path / "m.onnx", torch.randn(2, 64, dtype=torch.bfloat16), lowering)
    assert report.layers[0].bytes < report.layers[0].dense_bytes == 2 * 48 * 64
    assert report.runtime == "ONNX's reference evaluator"
    assert report.max_error is not None
    assert report.max_error <= report.tolerance == 1e-1


def test_nothing_is_verified_where_that_is_declined(tmp_path: Path) -> None:
    report = export(nn.Sequential(folded(48, 64, (4, 8))), tmp_path / "m.onnx", torch.randn(2, 64), verify=False)
    assert (report.max_error, report.batch_sizes, report.load_seconds) == (None, (), None)
    assert str(report).endswith("not verified")
