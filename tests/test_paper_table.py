"""The tables of examples/paper: what a resumed run takes over."""

from __future__ import annotations

import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

PAPER = Path(__file__).parents[1] / "examples" / "paper"


def test_runs_of_other_epochs_are_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PAPER))
    common, table = import_module("common"), import_module("table")
    ran = common.Result("2x2", "ours", 0, 90.0, [90.0], 90.0, 86.5, 262, 1.0, 1.0)
    assert table.Table("a", "a", [], 8, tmp_path).read() == []
    table.Table("a", "a", [], 8, tmp_path).write([ran])
    assert table.Table("a", "a", [], 8, tmp_path).read() == [ran]
    with pytest.raises(SystemExit, match="a.json has runs of --epochs 8, not 9: pass that, or another --out"):
        table.Table("a", "a", [], 9, tmp_path).read()


def test_cifar_is_read_as_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of the published layout, pictures of random bytes; crops and mirrors keep the sizes and the labels."""
    monkeypatch.syspath_prepend(str(PAPER))
    cifar = import_module("cifar")
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 10), ("test", 4)):
        held = {b"data": rng.integers(0, 256, (count, 3072), np.uint8), b"fine_labels": [i % 100 for i in range(count)]}
        (folder / name).write_bytes(pickle.dumps(held))
    (images, labels), (tests, _) = cifar.load(tmp_path)
    assert images.shape == (10, 3, 32, 32)
    assert tests.shape == (4, 3, 32, 32)
    raw = pickle.loads((folder / "train").read_bytes())[b"data"][3].reshape(3, 32, 32)
    for channel, (mean, std) in enumerate(zip(cifar.MEAN, cifar.STD)):
        back = images[3, channel].cpu().numpy() * std + mean
        np.testing.assert_allclose(255 * back, raw[channel], atol=1e-2)
    batches = list(cifar.Augmented(images, labels, 4))
    assert [x.shape[0] for x, _ in batches] == [4, 4, 2]
    assert sorted(int(label) for _, y in batches for label in y) == list(range(10))
    (folder / "test").unlink()
    with pytest.raises(SystemExit, match="test is no part of CIFAR-100"):
        cifar.load(tmp_path)


def test_cifar_rows_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainable parameters by the formula: Table 3's where Table 2 contradicts it."""
    monkeypatch.syspath_prepend(str(PAPER))
    cifar, common = import_module("cifar"), import_module("common")
    every = {f"{row.name} {row.method}": row for row in cifar.rows(1)}
    assert len(every) == 12
    found = {name: common.trainable(every[name].build()) for name in ("ViT-t dense", "ViT-t ours, rank 4")}
    assert f"{found['ViT-t dense'] / 1e6:.1f}" == "5.5"
    assert f"{found['ViT-t ours, rank 4'] / 1e6:.3f}" == "1.884"
