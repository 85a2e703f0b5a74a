"""Ctrl-C: exit code 130, and nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from onnx_files import onnx_file, planted

PATIENCE = 120  # seconds, on a machine that is busy


def test_an_interrupted_export_leaves_nothing_and_exits_with_130(tmp_path: Path) -> None:
    """Hit once the new file is being written: that is when its hidden folder is there."""
    weights = {f"w{i}": planted(256, 256, (16, 16), 0.9, seed=i).T for i in range(8)}
    nodes = [f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(8)]
    file = onnx_file(tmp_path / "m.onnx", "float[b, 256] h0 => float[b, 256] h8", *nodes, **weights)
    words = [sys.executable, "-m", "kronfx", "sparsify", str(file), str(tmp_path / "s.onnx"), "--batch-sizes", "4096"]
    # What a shell puts into the background ignores Ctrl-C, and so do its children: these must hear it.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as running:
        deadline = time.monotonic() + PATIENCE
        while not list(tmp_path.glob(".*")) and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out, err) == (130, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("is_command", [True, False])
def test_ctrl_c_while_libraries_are_imported(is_command: bool) -> None:
    """It is the command's to end quietly; a program that imports kronfx hears it itself."""
    asked = ["-m", "kronfx", "--version"] if is_command else ["-c", "import kronfx"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    words = [sys.executable, "-X", "importtime", *asked]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as running:
        lines = running.stderr
        assert lines is not None
        while "torch._C" not in lines.readline():
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=PATIENCE)
    said = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert out == ""
    if is_command:
        assert (running.returncode, said) == (130, ["kronfx: interrupted"])
    else:
        assert said[-1].startswith("KeyboardInterrupt")
        assert running.returncode == -signal.SIGINT
