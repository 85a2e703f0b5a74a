"""What the examples learn from: named by ``--data``, or downloaded once into the repository's ``data/``."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "data"
TINY_SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def fetched(path: Path, url: str) -> Path:
    """``path``, which is downloaded if it is not there; several processes may ask at once."""
    if path.is_file():
        return path
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            content = answer.read()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise unavailable(path, url, error) from None
    return path


def unavailable(path: Path, url: str, error: Exception) -> SystemExit:
    """The sentence about data that are neither here nor to be had."""
    return SystemExit(f"{path} is not there, and {url} did not answer ({error}); put it there or name it by --data.")


def text_file(path: Path | None) -> Path:
    """The text file ``path``, or the ``input.txt`` of that folder; without one, tinyshakespeare (A. Karpathy)."""
    if path is None:
        return fetched(DATA / "tinyshakespeare" / "input.txt", TINY_SHAKESPEARE)
    path = path / "input.txt" if path.is_dir() else path
    if not path.is_file():
        raise SystemExit(f"{path} is not there; name a text, or the folder of an input.txt, by --data.")
    return path
