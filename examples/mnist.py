"""MNIST as two pairs of tensors, read from its four IDX files (Y. LeCun, C. Cortes, C. Burges)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from download import DATA, fetched
from numpy.typing import NDArray
from torch import Tensor

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"
MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to [0, 1]


def load(folder: Path | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``(train, test)``, each images ``[N, 1, 28, 28]`` float32 (mean 0, deviation 1) and labels ``[N]`` int64.

    Without a folder they are read from ``data/mnist``. Files that are missing are downloaded.
    """
    folder = folder or DATA / "mnist"
    return _split(folder, "train"), _split(folder, "t10k")


def _split(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(_idx(folder, f"{name}-images-idx3-ubyte"))
    labels = torch.from_numpy(_idx(folder, f"{name}-labels-idx1-ubyte"))
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1), labels.long()


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: two zeros, the type 8, the number of axes, big-endian sizes, then the data."""
    raw = folder / name
    data = raw.read_bytes() if raw.is_file() else _unpacked(folder / f"{name}.gz")
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{folder / name} is no IDX file of bytes; delete it to have it downloaded again.")
    axes = data[3]
    sizes = np.frombuffer(data, ">i4", axes, offset=4)
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(sizes).copy()
    return values


def _unpacked(path: Path) -> bytes:
    packed = fetched(path, f"{MIRROR}/{path.name}")
    try:
        return gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise SystemExit(f"{path} does not unpack ({error}); delete it to have it downloaded again.") from None
