"""The paper's Tables 2 and 3: ViT-tiny and Swin-tiny on CIFAR-100, blocks of 4x4, ranks 1, 2 and 4, and the baselines.

    python examples/paper/cifar.py --data FOLDER --only "ViT-t ours, rank 4"

The folder holds ``cifar-100-python`` as its authors pack it, or it is downloaded there. The pictures are scaled to
224x224 inside the model, as the paper's 2.16 G operations of ViT-tiny tell. A full run is 300 epochs of 12 rows, hours
each on a GPU, which is used where there is one.

Table 2 prints 0.16M and 5.3M parameters for rank 4, Table 3 1.88M and 8.69M for the same models: the formula gives
Table 3's.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import InMemory, Paper, Recipe, Row, arguments, elastic, lasso, ours, run
from download import DATA, unavailable
from table import Table
from torch import Tensor, nn

import kronfx as kx
from kronfx.train import Blocks

BATCH, RATE, LASSO_RATE, SIZE, PADDING, CLASSES = 128, 1e-3, 0.05, 224, 4, 100
FOLDER = "cifar-100-python"
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)  # of the training pixels, scaled to [0, 1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ADAMW = partial(torch.optim.AdamW, weight_decay=0.05)

# timm's name; the dense model's figures, group LASSO's, elastic group LASSO's; ours by rank: Table 2, then Table 3.
MODELS = {
    "ViT-t": (
        "vit_tiny_patch16_224", Paper(64.32, None, 5_500_000), Paper(60.41, 49.99, 5_500_000),
        Paper(61.92, 49.92, 5_500_000),
        {4: Paper(62.99, 49.64, 160_000), 2: Paper(59.71, 50.74, 1_220_000), 1: Paper(36.86, 52.20, 880_000)},
    ),
    "Swin-t": (
        "swin_tiny_patch4_window7_224", Paper(81.44, None, 27_600_000), Paper(75.87, 50.24, 27_600_000),
        Paper(76.34, 50.19, 27_600_000),
        {4: Paper(77.54, 53.25, 5_300_000), 2: Paper(68.22, 54.37, 5_250_000), 1: Paper(58.46, 51.39, 3_530_000)},
    ),
}  # fmt: skip


class Augmented(InMemory):
    """Batches that are cropped at one random place out of a padded frame, and mirrored half of the time."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        height, width = self.inputs.shape[-2:]
        for inputs, labels in super().__iter__():
            x = F.pad(inputs, (PADDING,) * 4)
            top, left = torch.randint(2 * PADDING + 1, (2,)).tolist()
            x = x[..., top : top + height, left : left + width]
            yield (x.flip(-1) if torch.rand(()) < 0.5 else x), labels.to(x.device)


def load(folder: Path | None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``(train, test)``, each images ``[N, 3, 32, 32]`` (mean 0, deviation 1) and labels ``[N]``."""
    found = folder or DATA
    found = found if found.name == FOLDER else found / FOLDER
    if not found.is_dir():
        _download(found)
    return _split(found / "train"), _split(found / "test")


def _download(folder: Path) -> None:
    from torchvision.datasets import CIFAR100

    try:
        CIFAR100(folder.parent, download=True)
    except (OSError, RuntimeError) as error:
        raise unavailable(folder, CIFAR100.url, error) from None


def _split(path: Path) -> tuple[Tensor, Tensor]:
    """A pickled dict of bytes ``data [N, 3072]`` and lists of labels, as the data set is published."""
    try:
        with path.open("rb") as file:
            held = pickle.load(file, encoding="bytes")
        images, labels = torch.from_numpy(np.array(held[b"data"])), torch.tensor(held[b"fine_labels"])
    except (OSError, pickle.UnpicklingError, KeyError, TypeError) as error:
        raise SystemExit(f"{path} is no part of CIFAR-100 ({error}); name its folder by --data.") from None
    x = images.reshape(-1, 3, 32, 32).float() / 255
    return ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).to(DEVICE), labels


def dense(name: str) -> nn.Module:
    """timm's model for 100 classes, fed 32x32 pictures."""
    import timm

    model = timm.create_model(name, num_classes=CLASSES)
    return nn.Sequential(nn.Upsample(size=SIZE, mode="bilinear"), model).to(DEVICE)


def factored(name: str, rank: int) -> nn.Module:
    """Every linear layer in blocks of 4x4, the head included."""
    return kx.factorize(dense(name), rank=rank, block=(4, 4), include=nn.Linear)


def rows(epochs: int) -> list[Row]:
    """Six a model: dense, two baselines at the paper's share of zero blocks, ours at three ranks."""
    recipe = Recipe(epochs, RATE, ADAMW)
    lassos = Recipe(epochs, LASSO_RATE, partial(torch.optim.SGD, momentum=0.9))
    found = []
    for name, (model, plain, group, ridged, ranks) in MODELS.items():
        build, groups = partial(dense, model), Blocks(4, 4)
        found += [
            Row(name, "dense", build, None, recipe, plain),
            Row(name, "group LASSO", build, lasso(groups, 0.5024), lassos, group),
            Row(name, "elastic group LASSO", build, elastic(groups, 0.5019), lassos, ridged),
        ]
        found += [
            Row(name, f"ours, rank {rank}", partial(factored, model, rank), ours(paper.sparsity / 100), recipe, paper)
            for rank, paper in ranks.items()
        ]
    return found


def main() -> None:
    """Train, measure, write."""
    given = arguments(__doc__, "cifar", epochs=300)
    (images, labels), test = load(given.data)
    every = rows(given.epochs)
    chosen = [row for row in every if given.only in f"{row.name} {row.method}"]
    table = Table("ViT-tiny and Swin-tiny, CIFAR-100 (Tables 2 and 3)", "cifar", every, given.epochs, given.out)
    done = table.read() if given.resume else []
    print(table.write(run(chosen, Augmented(images, labels, BATCH), test, given, done, table.write)))


if __name__ == "__main__":
    main()
