"""The examples' data: named, or downloaded into the repository; one sentence where neither works."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOWHERE = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}  # nothing answers there

LOADS = {
    "mnist": "import mnist; mnist.load(None)",
    "tinyshakespeare": "import char_gpt; char_gpt.load(None, 64)",
    "cifar-100-python": "import sys; sys.path[:0] = ['paper']; import cifar; cifar.load(None)",
}


@pytest.mark.parametrize("name", LOADS)
def test_without_a_network_a_sentence(name: str, tmp_path: Path) -> None:
    """In a copy of the folder, with the data lying where only this machine would know it."""
    shutil.copytree(EXAMPLES, tmp_path / "repository" / "examples")
    for folder in ("mnist", "tinyshakespeare", "cifar-100-python"):
        (tmp_path / "shared" / "data" / folder).mkdir(parents=True)
    environment = os.environ | NOWHERE | {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, "-c", LOADS[name]],
        cwd=tmp_path / "repository" / "examples",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    place = tmp_path / "repository" / "data" / name
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(str(place))
    assert done.stderr.strip().endswith("put it there or name it by --data.")


def test_a_file_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    fetched = import_module("download").fetched
    source, target = tmp_path / "source.txt", tmp_path / "data" / "text" / "input.txt"
    source.write_text("first")
    assert fetched(target, source.as_uri()).read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["input.txt"]
    source.write_text("second")
    assert fetched(target, source.as_uri()).read_text() == "first"


def test_a_folder_or_a_file_of_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    text_file = import_module("download").text_file
    with pytest.raises(SystemExit, match="input.txt is not there; name a text"):
        text_file(tmp_path)
    (tmp_path / "input.txt").write_text("to be")
    assert text_file(tmp_path) == text_file(tmp_path / "input.txt") == tmp_path / "input.txt"


def test_half_a_file_of_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    packed = gzip.compress(bytes(1000))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(SystemExit, match=r"idx3-ubyte.gz does not unpack \(.*\); delete it to have it downloaded"):
        import_module("mnist").load(tmp_path)
