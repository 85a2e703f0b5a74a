"""MNIST as two pairs of tensors, read from its four IDX files (Y. LeCun, C. Cortes, C. Burges)."""

from __future__ import annotations

import gzip
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist"
ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "data" / "mnist", ROOT.parent / "shared" / "data" / "mnist")
MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to [0, 1]


def load(folder: Path | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """``(train, test)``, each images ``[N, 1, 28, 28]`` float32 (mean 0, deviation 1) and labels ``[N]`` int64.

    Without a folder the first of ``FOLDERS`` that exists is read. Files that are missing are downloaded into it.
    """
    folder = folder or next((known for known in FOLDERS if known.is_dir()), FOLDERS[0])
    return _split(folder, "train"), _split(folder, "t10k")


def _split(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(_idx(folder, f"{name}-images-idx3-ubyte"))
    labels = torch.from_numpy(_idx(folder, f"{name}-labels-idx1-ubyte"))
    return ((images.float() / 255 - MEAN) / STD).unsqueeze(1), labels.long()


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: two zeros, the type 8, the number of axes, big-endian sizes, then the data."""
    raw = folder / name
    data = raw.read_bytes() if raw.is_file() else gzip.decompress(_fetched(folder / f"{name}.gz").read_bytes())
    if data[:3] != b"\0\0\x08":
        raise SystemExit(f"{folder / name} is no IDX file of bytes; delete it to have it downloaded again.")
    axes = data[3]
    sizes = np.frombuffer(data, ">i4", axes, offset=4)
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(sizes).copy()
    return values


def _fetched(path: Path) -> Path:
    if not path.is_file():
        url = f"{MIRROR}/{path.name}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                content = answer.read()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except (urllib.error.URLError, OSError) as error:
            raise SystemExit(
                f"MNIST is not in {path.parent} and {url} did not answer ({error}); "
                "put the four IDX files there or name their folder with --data."
            ) from None
    return path
