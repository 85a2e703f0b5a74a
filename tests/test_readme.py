"""The README is run, not believed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from snippets import ROOT, fenced

README = ROOT / "README.md"
LONGEST = 130  # lines: what a person reads in ten minutes


def blocks(language: str) -> list[str]:
    return [snippet.code for snippet in fenced(README, language)]


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_stays_short() -> None:
    assert len(README.read_text().splitlines()) <= LONGEST


def test_the_examples_do_what_the_readme_says(tmp_path: Path) -> None:
    """The second one goes on from the first."""
    (first, second), (printed,) = blocks("python"), blocks("text")
    shown, sparsified = run("-c", f"{first}\nprint('~')\n{second}", cwd=tmp_path).split("~\n")
    assert shown.strip() == printed.strip()
    assert "verified in onnxruntime" in sparsified
    whole = sum((tmp_path / name).stat().st_size for name in ("m.onnx", "m.onnx.data"))
    assert f"{whole / 1e6:.1f} MB" in second
    assert f"{(tmp_path / 'out.onnx').stat().st_size / 1e6:.1f} MB" in second
    assert not (tmp_path / "out.onnx.data").exists()


def test_the_commands_are_the_two() -> None:
    assert [block.strip() for block in blocks("bash")[:2]] == [
        'pip install -e ".[examples]" && python examples/quickstart.py',
        'pip install -e ".[test]" && python -m pytest',
    ]


def test_the_quickstart_runs_and_shows_the_whole_path(tmp_path: Path) -> None:
    printed = run(str(ROOT / "examples" / "quickstart.py"), "--out", "digits.onnx", cwd=tmp_path)
    assert (tmp_path / "digits.onnx").exists()
    for row in ("dense", "factored", "folded", "ONNX"):
        assert re.search(rf"^\W*{row} .*%", printed, re.MULTILINE), row
    assert "verified in onnxruntime, batch sizes 1, 7, 256" in printed
