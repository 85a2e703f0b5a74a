"""What a person looks at, at every point of the way."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import models
import onnx
import pytest
import torch

import kronfx as kx


def test_a_report_at_every_point(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.lenet5()
    plan = kx.plan(model, rank=2, block={"fc1": (8, 16), "fc2": (4, 8), "fc3": (2, 4)}, include="fc*")
    factored = kx.factorize(model, plan)
    with torch.no_grad():
        for factors in kx.factors(factored).values():
            factors.S[0] = 0
    folded = kx.fold(factored)
    path = tmp_path / "lenet.onnx"
    kx.export_onnx(folded, path, torch.randn(2, 1, 28, 28))
    zero = 25 + 15 + 21  # the first row of blocks of each layer
    for subject, state in (
        (model, "dense"),
        (plan, "planned"),
        (factored, "factored"),
        (folded, "folded"),
        (path, "onnx"),
    ):
        report = kx.inspect(subject)
        assert [layer.site for layer in report.layers if layer.site[0] == "f"] == ["fc1", "fc2", "fc3"]
        assert {layer.state for layer in report.layers if layer.site[0] == "f"} == {state}
        assert json.loads(json.dumps(report.to_dict()))["zero_blocks"] == report.zero_blocks
        if state in ("factored", "folded", "onnx"):
            assert (report.zero_blocks, report.blocks) == (zero, 795)
            assert "61 of 795 blocks exactly zero (7.67%)" in str(report)
    assert [layer.state for layer in kx.inspect(factored).layers if layer.site in ("0", "3")] == ["dense", "dense"]
    page = kx.inspect(folded).to_html(tmp_path / "report.html").read_text()
    assert ">fc1</button>" in page
    assert ">fc1</th>" in kx.inspect(folded)._repr_html_()


def test_html_is_escaped_and_written_whole(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"<b>": torch.nn.Linear(64, 64)})
    assert "<b>" not in kx.inspect(model)._repr_html_()
    with pytest.raises(kx.KronfxError, match="^inspect: cannot write"):
        kx.inspect(model).to_html(tmp_path)


def test_what_cannot_be_inspected_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(kx.KronfxError, match="^inspect: a int; needed a Plan"):
        kx.inspect(3)  # type: ignore[arg-type]
    with pytest.raises(kx.KronfxError, match="^inspect: .*missing.onnx"):
        kx.inspect(tmp_path / "missing.onnx")


def test_nearest_factors_show_the_energy_they_kept() -> None:
    torch.manual_seed(0)
    model = models.mlp(16, 24, 8)
    report = kx.inspect(kx.factorize(model, rank=2, block=(4, 4), init="nearest"))
    kept = [layer.energy for layer in report.layers]
    assert all(share is not None and 0.1 < share < 0.9 for share in kept)
    assert all(f"{100 * share:.2f}%" in str(report) for share in kept if share is not None)
    assert "energy kept" in report._repr_html_()
    assert "energy kept" not in str(kx.inspect(kx.factorize(model, rank=2, block=(4, 4))))


def test_tall_blocks_show_what_they_gain_in_a_file() -> None:
    """More than flat ones of the same area, in the plan and in the model; kernels and stacks run dense."""
    model = torch.nn.ModuleDict({"tall": torch.nn.Linear(512, 512), "flat": torch.nn.Linear(512, 512)})
    model["kernel"] = torch.nn.Conv2d(32, 32, 3)
    plan = kx.plan(model, rank=2, block={"tall": (64, 4), "flat": (4, 64), "kernel": (8, 8)})
    for subject in (plan, kx.factorize(model, plan)):
        report = kx.inspect(subject)
        gains = {layer.site: layer.gain for layer in report.layers}
        assert gains["tall"] > 2 * gains["flat"] > 1  # type: ignore[operator]
        assert gains["kernel"] is None
        assert f"{gains['tall']:.1f}x" in str(report)
    assert "flat blocks (1): flat; tall ones" in str(plan)
    assert "flat blocks" not in str(plan.without("flat"))


def test_a_files_weights_are_read_when_somebody_asks_and_once(tmp_path: Path) -> None:
    """The table needs none of them: here they are gone when it is printed."""
    path = tmp_path / "m.onnx"
    torch.onnx.export(models.mlp(64, 64, 64).eval(), (torch.randn(2, 64),), path, dynamo=True, verbose=False)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    whole, table = kx.inspect(path), kx.inspect(path)
    assert whole.forecast is not None
    (tmp_path / "m.data").rename(tmp_path / "gone")
    assert "64x64" in str(table)
    assert whole.to_html(tmp_path / "page.html").exists()
    assert pickle.loads(pickle.dumps(whole)).forecast == whole.forecast
    assert table.forecast is None
    assert "m.data is missing" in table.page.notes[0]


def test_a_model_without_values_counts_none(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = kx.factorize(models.mlp(64, 64, 64), rank=1, block=(8, 8))
    report = kx.inspect(model)
    assert [layer.zero_blocks for layer in report.layers] == [None, None]
    assert report.to_html(tmp_path / "page.html").exists()
