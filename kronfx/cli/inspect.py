"""``kronfx inspect``: would this ONNX file gain?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kronfx.cli.verb import Answer
from kronfx.deploy import forecast
from kronfx.report import inspect as look

File = Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The ONNX file, whoever wrote it.")]
Page = Annotated[Path | None, typer.Option("--html", metavar="PAGE.html", help="Also write what it holds as a page.")]
NodeData = Annotated[
    Path | None,
    typer.Option("--node-data", metavar="DIR", help="Also write node data for Model Explorer into a folder."),
]
Training = Annotated[
    Path | None, typer.Option("--history", metavar="RUN.jsonl", help="Of the training: its curves go into the page.")
]


def inspect(file: File, html: Page = None, history: Training = None, node_data: NodeData = None) -> Answer:
    """Would this ONNX file gain?

    How many blocks of each weight are zero, at many shapes, and what that would give. Nothing is run or
    written. The forecast is a cost model's; kronfx sparsify asks the clock.
    """
    report = look(file, history=history)
    expected = report.forecast or forecast(file)  # which says why there is none
    if html is not None:
        report.to_html(html)
    if node_data is not None:
        report.to_model_explorer(node_data)
    return Answer(expected, {"forecast": expected.to_dict(), "report": report.to_dict()})
