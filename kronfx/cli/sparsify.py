"""``kronfx sparsify``: any ONNX file, smaller and faster where its weights have blocks of zeros."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typing_extensions import Unpack

from kronfx.cli.verb import Answer
from kronfx.deploy import sparsify_onnx
from kronfx.deploy.options import SparsifyKeywords
from kronfx.errors import InspectError
from kronfx.files import destination

Source = Annotated[Path, typer.Argument(metavar="IN", help="The ONNX file, whoever wrote it.")]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="Where the new file goes.")]
Page = Annotated[
    Path | None, typer.Option("--report", metavar="PAGE.html", help="Also write what became of it as a page.")
]


def sparsify(source: Source, target: Target, report: Page = None, **wishes: Unpack[SparsifyKeywords]) -> Answer:
    """Write an ONNX file anew, smaller and faster.

    It gains where weights have blocks of zeros, and computes the same. It is timed and verified against the
    source before it gets its name. Where nothing gains, it is the source's bytes.
    """
    if report is not None:
        destination(report, InspectError)  # before minutes are spent
    done = sparsify_onnx(source, target, **wishes)
    if report is not None:
        done.to_html(report)
    return Answer(done, done.to_dict())
