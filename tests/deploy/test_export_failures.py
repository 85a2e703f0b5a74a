"""What goes wrong has its own sentence, and leaves the destination as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from disk import no_file_beyond
from models import factored, folded
from torch import Tensor, nn

import kronfx as kx
from kronfx import deploy
from kronfx.errors import ExportError, VerificationError

BEFORE = b"what was there before"


def quick(**options: Any) -> deploy.ExportOptions:
    return deploy.ExportOptions(tune=False, **options)


def small() -> nn.Sequential:
    return nn.Sequential(folded(48, 32, (4, 8)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A destination that already holds something."""
    (tmp_path / "model.onnx").write_bytes(BEFORE)
    return tmp_path / "model.onnx"


def refused(
    path: Path, model: Any, example: Any, error: type[ExportError] = ExportError, reference: Any = None, **options: Any
) -> str:
    """The sentence of a failing export, once it is sure that it touched nothing."""
    with pytest.raises(error) as caught:
        deploy.export(model, path, example, quick(**options), reference=reference)
    assert type(caught.value) is error
    assert path.read_bytes() == BEFORE
    assert list(path.parent.iterdir()) == [path]
    return str(caught.value)


class Reshaping(nn.Module):
    """Takes four rows and no other number."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = folded(48, 32, (4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(4, 32))


class BranchOnRows(Reshaping):
    """Computes something else for many rows, behind the back of the tracer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.shape[0] <= 5 else -self.fc(x)


class BranchOnValues(Reshaping):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else -self.fc(x)


class Logarithm(Reshaping):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).log()


class Interrupted(Reshaping):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyboardInterrupt


def test_a_mismatch_with_the_reference(path: Path) -> None:
    other = nn.Sequential(folded(48, 32, (4, 8), seed=1))
    sentence = refused(path, small(), torch.randn(1, 32), VerificationError, reference=other)
    assert "relative error of" in sentence
    assert "at most 1e-04" in sentence
    assert deploy.export(small(), path, torch.randn(1, 32), quick(), reference=small()).bytes == path.stat().st_size


def test_a_reference_of_another_shape(path: Path) -> None:
    other = nn.Linear(32, 47)
    assert "(1, 48)" in refused(path, small(), torch.randn(1, 32), VerificationError, reference=other)


def test_a_slight_mismatch_is_found_by_an_all_zero_example(path: Path) -> None:
    other = small()
    with torch.no_grad():
        other[0].weight[other[0].weight != 0] += 1e-2
    refused(path, small(), torch.zeros(1, 32), VerificationError, reference=other)


def test_rows_that_mix_are_found(path: Path) -> None:
    class Mixing(Reshaping):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.flip(0))

    model = Mixing()
    refused(path, nn.Sequential(model.fc), torch.randn(1, 32), VerificationError, reference=model, batch_sizes=(7,))


def test_a_reference_that_answers_nan(path: Path) -> None:
    sentence = refused(path, Logarithm(), torch.randn(2, 32), VerificationError)
    assert "the reference model itself answers NaN at batch size 1" in sentence


def test_a_batch_that_is_fixed(path: Path) -> None:
    sentence = refused(path, Reshaping(), torch.randn(4, 32))
    assert "cannot take every batch size" in sentence
    assert "dynamic_shapes={}" in sentence
    assert deploy.export(Reshaping(), path, torch.randn(4, 32), quick(dynamic_shapes={})).batch_sizes == (4,)


def test_a_batch_that_changes_the_computation(path: Path) -> None:
    sentence = refused(path, BranchOnRows(), torch.randn(2, 32), VerificationError)
    assert "at batch size 7" in sentence
    assert "dynamic_shapes={}" in sentence


def test_a_model_torch_cannot_capture(path: Path) -> None:
    with pytest.raises(ExportError, match="data-dependent") as caught:
        deploy.export(BranchOnValues(), path, torch.randn(2, 32))
    assert caught.value.__cause__ is not None
    assert "batch" not in str(caught.value)


def test_an_interrupt_leaves_nothing_behind(path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        deploy.export(small(), path, torch.randn(2, 32), reference=Interrupted())
    assert path.read_bytes() == BEFORE
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk(path: Path) -> None:
    """The system refuses the write half way through: here because no file may grow past 4 KiB."""
    model = nn.Sequential(nn.Linear(64, 64))
    with no_file_beyond(4096):
        sentence = refused(path, model, torch.randn(2, 64))
    assert "File too large" in sentence


@pytest.mark.parametrize(
    ("name", "found"),
    [("", "it is a folder"), ("missing/m.onnx", "its folder is missing"), ("file/m.onnx", "is no folder")],
)
def test_a_destination_that_cannot_be(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=found):
        deploy.export(small(), tmp_path / name, torch.randn(2, 32))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_is_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.onnx"
    link.symlink_to(tmp_path / "real" / "model.onnx")
    report = deploy.export(small(), link, torch.randn(2, 32), quick(verify=False))
    assert link.is_symlink()
    assert (tmp_path / "real" / "model.onnx").stat().st_size == report.bytes


@pytest.mark.parametrize(
    ("example", "found"),
    [
        ((), "no tensor"),
        ({}, "no tensor"),
        ([3], "no tensor"),
        ("text", "of type str"),
        (torch.randn(0, 32), "0 rows"),
        (torch.empty(2, 32, device="meta"), "meta device"),
        ((torch.randn(2, 32), torch.randn(2, 32)), "too many positional arguments"),
        ({"y": torch.randn(2, 32)}, "missing a required argument"),
    ],
)
def test_examples_that_do_not_fit(path: Path, example: Any, found: str) -> None:
    assert found in refused(path, small(), example)


@pytest.mark.parametrize("sizes", [(), (0,), (1.5,), (-1, 7)])
def test_batch_sizes_that_are_none(path: Path, sizes: Any) -> None:
    assert "positive integers" in refused(path, small(), torch.randn(2, 32), batch_sizes=sizes)


def test_something_that_is_no_model(path: Path) -> None:
    assert "a function where the model belongs" in refused(path, small, torch.randn(2, 32))


def test_a_model_without_values(path: Path) -> None:
    sentence = refused(path, nn.Sequential(folded(48, 32, (4, 8))).to("meta"), torch.randn(2, 32))
    assert "0.weight: a tensor on the meta device" in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(path: Path, value: float) -> None:
    model = small()
    with torch.no_grad():
        model[0].weight.view(-1)[0] = value
    sentence = refused(path, model, torch.randn(2, 32))
    assert sentence.startswith("export: 0 (48x32): NaN or infinite entries in weight")


@pytest.mark.parametrize("lowering", ["auto", "dense", "factors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_factors_that_are_not_finite(path: Path, lowering: str, value: float) -> None:
    model = nn.Sequential(factored((6, 4, 8, 8), 2, "a_first"))
    with torch.no_grad():
        model[0].B.view(-1)[0] = value
    with pytest.raises(kx.KronfxError, match="0 \\(48x32\\): NaN or infinite"):
        kx.export_onnx(model, path, torch.randn(2, 32), lowering=lowering, tune=False)
    assert path.read_bytes() == BEFORE
    assert list(path.parent.iterdir()) == [path]


def test_factors_of_a_folded_model(path: Path) -> None:
    with pytest.raises(ExportError, match="export the factored model itself"):
        kx.export_onnx(small(), path, torch.randn(2, 32), lowering="factors")
    assert path.read_bytes() == BEFORE


def test_a_model_that_cannot_be_copied(path: Path) -> None:
    model = small()
    model.generator = (x for x in range(3))
    assert "the model cannot be copied (TypeError" in refused(path, model, torch.randn(2, 32))
