"""``kronfx bench``: files beside what they could be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typing_extensions import Unpack

from kronfx.cli.verb import Answer
from kronfx.deploy.bench import bench as measured
from kronfx.deploy.options import BenchKeywords

Files = Annotated[list[Path], typer.Argument(metavar="FILE.onnx...", help="ONNX files, whoever wrote them.")]


def bench(files: Files, **wishes: Unpack[BenchKeywords]) -> Answer:
    """Files beside what they could be, by the clock.

    Each as it is, in 8 and 4 bits by onnxruntime's quantizers, by kronfx and by kronfx in 8 bits, side by side.
    They take turns in onnxruntime, one session open at a time. Nothing is kept.
    """
    done = [measured(file, **wishes) for file in files]
    return Answer(done, [one.to_dict() for one in done])
